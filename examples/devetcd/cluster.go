package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// tempPattern is the name of a temporary directory.
const tempPattern = "devetcd-*"

const (
	readyTimeout = 30 * time.Second
	stopTimeout  = 5 * time.Second

	// A member that exits within minUptime, and was not killed by a signal, has failed to start.
	// After maxFailures of these in a row the program gives up.
	minUptime    = 5 * time.Second
	maxFailures  = 3
	restartDelay = 500 * time.Millisecond
)

// cluster is a number of members, each a child process that runs this program as a server.
type cluster struct {
	dir       string
	temporary bool
	unlock    func()
	plan      plan
	running   []*child    // by member, in the order of the plan; those that ended stay until replaced
	ended     chan *child // receives each process that ends
	due       chan *child // receives each process that is to be replaced, after a delay
	control   *control
}

// child is a member's process.
type child struct {
	member   member
	pid      int
	log      string
	started  time.Time
	failures int // failed starts of this member in a row before this one
	paused   bool
	down     bool         // killed by a command: it is not to be replaced
	stop     func() error // closes its standard input, which ends it
	kill     func() error
	signal   func(os.Signal) error
	done     chan struct{} // closed when it has ended
	err      error         // valid then
}

// The states of a member.
const (
	stateRunning    = "running"
	statePaused     = "paused"
	stateKilled     = "killed"
	stateRestarting = "restarting"
)

func (ch *child) state() string {
	select {
	case <-ch.done:
		if ch.down {
			return stateKilled
		}
		return stateRestarting
	default:
	}
	if ch.paused {
		return statePaused
	}
	return stateRunning
}

func (ch *child) String() string { return fmt.Sprintf("%s (pid %d)", ch.member.Name, ch.pid) }

// wrongState is the error of a command that the state of the member does not allow.
func (ch *child) wrongState() error { return fmt.Errorf("%s is %s", ch, ch.state()) }

// open prepares a cluster in dir, or in a temporary directory.
func open(dir string, members int, clientPorts []int) (*cluster, error) {
	c := &cluster{dir: dir, temporary: dir == "", unlock: func() {}}
	var err error
	if c.temporary {
		c.dir, err = os.MkdirTemp("", tempPattern)
	} else {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, err
	}
	unlock, err := lockDir(c.dir)
	if err != nil {
		c.close()
		return nil, err
	}
	c.unlock = unlock
	if c.plan, err = loadPlan(c.dir, members, clientPorts); err != nil {
		c.close()
		return nil, err
	}
	c.ended = make(chan *child, len(c.plan.Members))
	c.due = make(chan *child, len(c.plan.Members))
	return c, nil
}

func (c *cluster) endpoints() []string {
	eps := make([]string, 0, len(c.plan.Members))
	for _, m := range c.plan.Members {
		eps = append(eps, m.ClientURL())
	}
	return eps
}

// table lists the members: name, process ID, client URL, and the state if it is not running.
func (c *cluster) table() string {
	var b strings.Builder
	for _, ch := range c.running {
		state := ""
		if s := ch.state(); s != stateRunning {
			state = "  " + s
		}
		fmt.Fprintf(&b, "  %s  pid %d  %s%s\n", ch.member.Name, ch.pid, ch.member.ClientURL(), state)
	}
	return b.String()
}

// start starts all members and returns once each answers a linearizable read.
func (c *cluster) start(ctx context.Context) error {
	for _, m := range c.plan.Members {
		if err := os.Remove(c.logFile(m)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		ch, err := c.launch(m)
		if err != nil {
			return err
		}
		c.running = append(c.running, ch)
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for _, m := range c.plan.Members {
		if err := c.waitReady(ctx, m.ClientURL()); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return nil
}

// logFile returns the path of a member's log, which all of its processes append to.
func (c *cluster) logFile(m member) string { return filepath.Join(c.dir, m.Name+".log") }

// launch starts one member. It must be called from the main thread: see main.
func (c *cluster) launch(m member) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ch := &child{member: m, log: c.logFile(m), started: time.Now(), done: make(chan struct{})}
	log, err := os.OpenFile(ch.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // the child writes it
	//nolint:gosec,noctx // this program itself, stopped by close
	cmd := exec.Command(self, append([]string{"server", untilEOF}, c.flags(m)...)...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "ETCD_") })
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = dieWithParent()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ch.pid, ch.stop, ch.kill, ch.signal = cmd.Process.Pid, stdin.Close, cmd.Process.Kill, cmd.Process.Signal
	go func() {
		ch.err = cmd.Wait()
		close(ch.done)
		c.ended <- ch
	}()
	return ch, nil
}

func (c *cluster) flags(m member) []string {
	peers := make([]string, 0, len(c.plan.Members))
	for _, p := range c.plan.Members {
		peers = append(peers, p.Name+"="+p.PeerURL())
	}
	flags := []string{
		"--name=" + m.Name,
		"--data-dir=" + filepath.Join(c.dir, m.Name),
		"--listen-client-urls=" + m.ClientURL(),
		"--advertise-client-urls=" + m.ClientURL(),
		"--listen-peer-urls=" + m.PeerURL(),
		"--initial-advertise-peer-urls=" + m.PeerURL(),
		"--initial-cluster=" + strings.Join(peers, ","),
	}
	if c.temporary {
		flags = append(flags, "--unsafe-no-fsync") // the data need not survive a power failure
	}
	return flags
}

// waitReady returns once the server at url answers linearizable reads.
func (c *cluster) waitReady(ctx context.Context, url string) error {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/health", http.NoBody)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-again.C:
		case ch := <-c.ended:
			return ch.endError()
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w", context.Cause(ctx))
		}
	}
}

// wait replaces members that end and executes commands, until ctx ends. It returns an error if a
// member cannot be replaced. It must be called from the main thread: see main.
func (c *cluster) wait(ctx context.Context, out io.Writer) error {
	var commands <-chan command
	if c.control != nil {
		commands = c.control.commands
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case ch := <-c.ended:
			// The delay also lets the end of devetcd come first: a terminal signals the members,
			// too.
			time.AfterFunc(restartDelay, func() { c.due <- ch })
		case ch := <-c.due:
			if ch.down || !slices.Contains(c.running, ch) {
				continue
			}
			next, err := c.replace(ch)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(out, "member %s ended: %v; restarted it as pid %d\n", ch, ch.cause(), next.pid)
			if err != nil {
				return err
			}
		case cmd := <-commands:
			text, err := c.execute(cmd.name, cmd.member)
			cmd.reply <- result{text, err}
			if err != nil || cmd.name == cmdStatus {
				continue
			}
			if _, err = fmt.Fprintln(out, text); err != nil {
				return err
			}
		}
	}
}

// replace starts a member that has ended again.
func (c *cluster) replace(ch *child) (*child, error) {
	failures := 0
	if time.Since(ch.started) < minUptime && !ch.wasKilled() {
		failures = ch.failures + 1
	}
	if failures == maxFailures {
		return nil, ch.endError()
	}
	next, err := c.launch(ch.member)
	if err != nil {
		return nil, err
	}
	next.failures = failures
	c.running[slices.Index(c.running, ch)] = next
	return next, nil
}

// close stops all members and releases the data, or removes it if it is temporary.
func (c *cluster) close() {
	defer c.unlock()
	if c.control != nil {
		c.control.close()
	}
	for _, ch := range c.running {
		_ = ch.stop() // it may have ended
		if ch.paused {
			_ = resumeProcess(ch.signal)
		}
	}
	deadline := time.NewTimer(stopTimeout)
	defer deadline.Stop()
	for _, ch := range c.running {
		select {
		case <-ch.done:
		case <-deadline.C:
			deadline.Reset(0) // for the members that follow
			_ = ch.kill()
			<-ch.done
		}
	}
	if c.temporary {
		_ = os.RemoveAll(c.dir)
	}
}

// wasKilled reports whether a signal has ended the member.
func (ch *child) wasKilled() bool {
	exit, ok := errors.AsType[*exec.ExitError](ch.err)
	return ok && !exit.Exited()
}

// cause returns why a member has ended.
func (ch *child) cause() error {
	if ch.err == nil {
		return errors.New("exit status 0")
	}
	return ch.err
}

// endError is the error of a member that has ended, with the end of its log.
func (ch *child) endError() error {
	const size = 4096
	log, _ := os.ReadFile(ch.log) // without a log there is nothing to add
	return fmt.Errorf("member %s ended: %w\n%s", ch.member.Name, ch.cause(), log[max(0, len(log)-size):])
}
