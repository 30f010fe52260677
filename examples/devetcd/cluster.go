package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	readyWithin = 30 * time.Second
	stopWithin  = 5 * time.Second
)

// cluster is a number of members, each a child process that runs this program as a server.
type cluster struct {
	dir       string
	temporary bool
	plan      plan
	running   []*child
	ended     chan *child // a member that ended, asked to or not
}

// child is a member's process.
type child struct {
	name string
	log  string
	stop func() error // ends its standard input, and it with that
	kill func() error
	done chan struct{}
	err  error
}

// open prepares a cluster in dir, or in a temporary directory.
func open(dir string, members int, clientPorts []int) (*cluster, error) {
	c := &cluster{dir: dir, temporary: dir == ""}
	var err error
	if c.temporary {
		c.dir, err = os.MkdirTemp("", "devetcd-*")
	} else {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, err
	}
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

// start runs all members and returns when each answers a linearizable read.
func (c *cluster) start(ctx context.Context) error {
	for _, m := range c.plan.Members {
		ch, err := c.launch(m)
		if err != nil {
			return err
		}
		c.running = append(c.running, ch)
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for _, m := range c.plan.Members {
		if err := c.waitReady(ctx, m.ClientURL()); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return nil
}

// launch starts one member. It must be called from the main thread: see main.
func (c *cluster) launch(m member) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ch := &child{name: m.Name, log: filepath.Join(c.dir, m.Name+".log"), done: make(chan struct{})}
	log, err := os.Create(ch.log)
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
	ch.stop, ch.kill = stdin.Close, cmd.Process.Kill
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
			return ch.why()
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w", context.Cause(ctx))
		}
	}
}

// wait returns nil when ctx ends, and an error when a member does.
func (c *cluster) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case ch := <-c.ended:
		if ctx.Err() == nil {
			return ch.why()
		}
		return nil // the terminal has told the members, too
	}
}

// close stops all members, and removes the data unless they were given a place.
func (c *cluster) close() {
	for _, ch := range c.running {
		_ = ch.stop() // at the worst it is gone already
	}
	deadline := time.NewTimer(stopWithin)
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

// why tells how a member ended, with the end of its log.
func (ch *child) why() error {
	err := ch.err
	if err == nil {
		err = errors.New("it was asked to stop")
	}
	const size = 4096
	log, _ := os.ReadFile(ch.log) // without a log there is nothing to add
	return fmt.Errorf("member %s ended: %w\n%s", ch.name, err, log[max(0, len(log)-size):])
}
