package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// errPortTaken says that another process got a port between its choice and the server's start.
var errPortTaken = errors.New("etcdtest: address already in use")

// member is one etcd process with what it needs to come back as the same: its data and its ports.
type member struct {
	name    string
	cfg     config
	command []string
	dir     string // holds data, log and socket

	client, peer, metrics port

	front port // where the other members reach it, if there is a network between them

	initialCluster string
	joins          bool // a cluster that exists

	mu   sync.Mutex
	proc *process // nil before the first launch
}

// newMember prepares a member without starting it.
func newMember(name string, cfg config) (*member, error) {
	command := []string{cfg.binary}
	if cfg.binary == "" {
		var err error
		if command, err = serverCommand(); err != nil {
			return nil, err
		}
	}
	dir, err := newDataDir(name)
	if err != nil {
		return nil, err
	}
	return &member{name: name, cfg: cfg, command: command, dir: dir}, nil
}

// startMembers gives the members of one cluster their ports, starts them and waits until each
// answers.
func startMembers(ctx context.Context, members []*member, n *network) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		if err := assignPorts(members); err != nil {
			return err
		}
		if n != nil {
			n.resolve()
		}
		err := launchAll(ctx, members)
		if !errors.Is(err, errPortTaken) {
			return err
		}
		for _, m := range members {
			m.kill()
			if err := m.removeData(); err != nil {
				return err
			}
		}
	}
}

func assignPorts(members []*member) error {
	peers := make([]string, 0, len(members))
	for _, m := range members {
		for _, p := range m.ports() {
			p.release()
			var err error
			if *p, err = takePort(); err != nil {
				return err
			}
		}
		peers = append(peers, m.name+"="+m.peerURL())
	}
	for _, m := range members {
		m.initialCluster = strings.Join(peers, ",")
	}
	return nil
}

func launchAll(ctx context.Context, members []*member) error {
	for _, m := range members {
		if err := m.launch(); err != nil {
			return err
		}
	}
	for _, m := range members {
		if err := m.waitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *member) endpoint() string {
	switch {
	case m.cfg.unixSocket:
		return "unix://" + filepath.Join(m.dir, "sock")
	case m.cfg.tls != nil:
		return "https://" + m.client.address()
	default:
		return "http://" + m.client.address()
	}
}

// advertised is the client URL that the member list shows. etcd before 3.7 takes no path there, so
// a server on a Unix socket shows another of its addresses.
func (m *member) advertised() string {
	if m.cfg.unixSocket {
		return "http://" + m.metrics.address()
	}
	return m.endpoint()
}

func (m *member) ports() []*port { return []*port{&m.client, &m.peer, &m.metrics} }

// peerURL is where the other members reach the member.
func (m *member) peerURL() string {
	if m.front.number != 0 {
		return "http://" + m.front.address()
	}
	return "http://" + m.peer.address()
}

func (m *member) dataDir() string { return filepath.Join(m.dir, "data") }
func (m *member) logFile() string { return filepath.Join(m.dir, "server.log") }

func (m *member) flags() []string {
	flags := []string{
		"--name=" + m.name,
		"--data-dir=" + m.dataDir(),
		"--listen-client-urls=" + m.endpoint(),
		"--advertise-client-urls=" + m.advertised(),
		"--listen-peer-urls=http://" + m.peer.address(),
		"--initial-advertise-peer-urls=" + m.peerURL(),
		"--initial-cluster=" + m.initialCluster,
		"--listen-metrics-urls=http://" + m.metrics.address(),
		"--enable-grpc-gateway=false", // it would be one more client of the server
		"--unsafe-no-fsync",
		"--bcrypt-cost=4",
	}
	if m.joins {
		flags = append(flags, "--initial-cluster-state=existing")
	}
	return append(append(flags, m.cfg.tlsFlags()...), m.cfg.flags...)
}

// launch starts the process. That it runs does not mean that it answers.
func (m *member) launch() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc != nil && !m.proc.exited() {
		return fmt.Errorf("etcdtest: %s is running already", m.name)
	}
	log, err := os.OpenFile(m.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the child has it open
	args := slices.Concat(m.command[1:], m.flags())
	cmd := exec.Command(m.command[0], args...) // it outlives any context
	cmd.Env = serverEnv()
	cmd.Stdout, cmd.Stderr = log, log
	proc, err := startProcess(cmd)
	if err != nil {
		return fmt.Errorf("etcdtest: start %s: %w", m.name, err)
	}
	m.proc = proc
	return nil
}

// serverEnv is the environment of this process without what would configure a server.
func serverEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "ETCD_") })
}

// waitReady returns when the member answers a linearizable read.
func (m *member) waitReady(ctx context.Context) error {
	const pause = 20 * time.Millisecond
	proc := m.process()
	timer := time.NewTimer(0) // the first question at once
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-proc.done:
			return m.exitError(proc)
		case <-ctx.Done():
			return fmt.Errorf("etcdtest: %s gives no linearizable answer: %w\n%s", m.name, ctx.Err(), m.logTail())
		}
		// The server answers this with a linearizable range, whatever its certificates and accounts
		// are. Alarms are excluded: a full server reads well.
		if _, err := m.fetch(ctx, "/health?exclude=NOSPACE&exclude=CORRUPT"); err == nil {
			return nil
		}
		timer.Reset(pause)
	}
}

func (m *member) exitError(proc *process) error {
	tail := m.logTail()
	if strings.Contains(tail, "address already in use") {
		return fmt.Errorf("%w: %s\n%s", errPortTaken, m.name, tail)
	}
	return fmt.Errorf("etcdtest: %s ended: %v\n%s", m.name, proc.cmd.ProcessState, tail)
}

// fetch reads a page of the plain HTTP port that each member has for its health and metrics.
func (m *member) fetch(ctx context.Context, page string) (string, error) {
	// A read that needs a leader ends after 7 s.
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.metrics.address()+page, http.NoBody)
	if err != nil {
		return "", err
	}
	// Connections that are kept alive would leave goroutines behind.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", page, resp.Status, body)
	}
	return string(body), err
}

func (m *member) process() *process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.proc
}

func (m *member) kill() {
	if p := m.process(); p != nil {
		p.kill()
	}
}

// removeData makes the next launch a first one.
func (m *member) removeData() error {
	return errors.Join(os.RemoveAll(m.dataDir()), os.RemoveAll(m.logFile()))
}

// discard ends the member for good.
func (m *member) discard() {
	m.kill()
	_ = os.RemoveAll(m.dir) // what stays is removed with the data root
	for _, p := range m.ports() {
		p.release()
	}
}

// logTail is the end of the server's log, for failures.
func (m *member) logTail() string {
	const size = 4096
	log, err := os.ReadFile(m.logFile())
	if err != nil {
		return err.Error()
	}
	return "the end of its log:\n" + string(log[max(0, len(log)-size):])
}
