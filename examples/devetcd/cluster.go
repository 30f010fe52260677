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

const (
	readyTimeout = 30 * time.Second
	stopTimeout  = 5 * time.Second

	// A member that exits within minUptime, and was not killed by a signal, has failed to start. After
	// maxFailures of these in a row the program gives up.
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
	running   []*child    // by member, in the order of the plan
	ended     chan *child // a member that ended, asked to or not
}

// child is a member's process.
type child struct {
	member   member
	pid      int
	log      string
	started  time.Time
	failures int          // starts of this member in a row that have failed before this one
	stop     func() error // ends its standard input, and it with that
	kill     func() error
	done     chan struct{}
	err      error
}

// open prepares a cluster in dir, or in a temporary directory.
func open(dir string, members int, clientPorts []int) (*cluster, error) {
	c := &cluster{dir: dir, temporary: dir == "", unlock: func() {}}
	var err error
	if c.temporary {
		c.dir, err = os.MkdirTemp("", "devetcd-*")
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
	return c, nil
}

func (c *cluster) endpoints() []string {
	eps := make([]string, 0, len(c.plan.Members))
	for _, m := range c.plan.Members {
		eps = append(eps, m.ClientURL())
	}
	return eps
}

// table lists the members: name, process ID and client URL.
func (c *cluster) table() string {
	var b strings.Builder
	for _, ch := range c.running {
		fmt.Fprintf(&b, "  %s  pid %d  %s\n", ch.member.Name, ch.pid, ch.member.ClientURL())
	}
	return b.String()
}

// start runs all members and returns when each answers a linearizable read.
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

// logFile returns the path of a member's log, which holds all of its lives since this program started.
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
	//nolint:gosec,noctx // this very program, stopped by close
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
	ch.pid, ch.stop, ch.kill = cmd.Process.Pid, stdin.Close, cmd.Process.Kill
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
		flags = append(flags, "--unsafe-no-fsync") // nobody will read it after a power cut
	}
	return flags
}

// waitReady returns when the server at url says that it has a leader and answers linearizable reads.
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

// wait restarts members that end, until ctx does. It returns an error if a member cannot be
// restarted. It must be called from the main thread: see main.
func (c *cluster) wait(ctx context.Context, out io.Writer) error {
	for {
		var ch *child
		select {
		case <-ctx.Done():
			return nil
		case ch = <-c.ended:
		}
		delay := time.NewTimer(restartDelay)
		select {
		case <-ctx.Done():
			delay.Stop()
			return nil // the terminal has signalled the members, too
		case <-delay.C:
		}
		next, err := c.restart(ch)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "member %s (pid %d) ended: %v; restarted it as pid %d\n", ch.member.Name, ch.pid, ch.cause(), next.pid)
		if err != nil {
			return err
		}
	}
}

// restart replaces the process of a member that has ended.
func (c *cluster) restart(ch *child) (*child, error) {
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

// close stops all members, releases the data, and removes it unless it was given a place.
func (c *cluster) close() {
	defer c.unlock()
	for _, ch := range c.running {
		_ = ch.stop() // at the worst it is gone already
	}
	deadline := time.NewTimer(stopTimeout)
	defer deadline.Stop()
	for _, ch := range c.running {
		select {
		case <-ch.done:
		case <-deadline.C:
			deadline.Reset(0) // for the ones that follow
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
		return errors.New("it was asked to stop")
	}
	return ch.err
}

// endError is the error of a member that has ended, with the end of its log.
func (ch *child) endError() error {
	const size = 4096
	log, _ := os.ReadFile(ch.log) // without a log there is nothing to add
	return fmt.Errorf("member %s ended: %w\n%s", ch.member.Name, ch.cause(), log[max(0, len(log)-size):])
}
