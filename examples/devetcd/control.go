package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	socketName     = "devetcd.sock"
	controlTimeout = 5 * time.Second // for each side of a command
	maxCommand     = 256             // bytes
)

// The commands that another devetcd sends through the control socket: one line with a command and a
// member. The reply is one line or several, which begin with "ok " or "error ".
const (
	cmdStatus  = "status"
	cmdPause   = "pause"
	cmdResume  = "resume"
	cmdKill    = "kill"
	cmdRestart = "restart"
)

func commands() []string { return []string{cmdStatus, cmdPause, cmdResume, cmdKill, cmdRestart} }

// command is a command that the main loop executes, since it owns the members.
type command struct {
	name   string
	member string
	reply  chan<- result // holds one
}

type result struct {
	text string
	err  error
}

// control accepts commands until it is closed.
type control struct {
	path     string
	listener net.Listener
	commands chan command
	stop     context.CancelFunc
	done     sync.WaitGroup
}

// listenControl opens the control socket in dir, which only this user can connect to.
func listenControl(ctx context.Context, dir string) (*control, error) {
	path := filepath.Join(dir, socketName)
	// A devetcd that was killed leaves its socket. The lock of dir tells that no other one runs
	// here.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var l *net.UnixListener
	err := inDir(dir, func() (err error) {
		l, err = listenPrivate(socketName)
		return err
	})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // its name is relative
	ctx, stop := context.WithCancel(ctx)
	c := &control{path: path, listener: l, commands: make(chan command), stop: stop}
	c.done.Go(func() { c.accept(ctx) })
	return c, nil
}

// inDir calls f in dir as the working directory: the name of a socket has about 100 bytes at most,
// and the path of dir may have more.
func inDir(dir string, f func() error) error {
	before, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	return errors.Join(f(), os.Chdir(before))
}

func (c *control) accept(ctx context.Context) {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return // closed
		}
		c.done.Go(func() { c.serve(ctx, conn) })
	}
}

// serve reads one command and sends its result.
func (c *control) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close() //nolint:errcheck // the client has its reply, or is gone
	_ = conn.SetDeadline(time.Now().Add(controlTimeout))
	line, err := bufio.NewReader(io.LimitReader(conn, maxCommand)).ReadString('\n')
	if err != nil {
		return
	}
	name, member, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	reply := make(chan result, 1)
	var r result
	select {
	case c.commands <- command{name: name, member: member, reply: reply}:
		r = <-reply
	case <-ctx.Done():
		r.err = errors.New("devetcd is stopping")
	}
	if r.err != nil {
		_, _ = fmt.Fprintf(conn, "error %v\n", r.err)
		return
	}
	_, _ = fmt.Fprintf(conn, "ok %s\n", r.text)
}

// close removes the socket and waits for the commands in progress.
func (c *control) close() {
	c.stop()
	_ = c.listener.Close()
	_ = os.Remove(c.path)
	c.done.Wait()
}

// execute runs a command. It must be called from the main thread: see main.
func (c *cluster) execute(name, memberName string) (string, error) {
	if name == cmdStatus {
		return "\n" + strings.TrimSuffix(c.table(), "\n"), nil
	}
	if !slices.Contains(commands(), name) {
		return "", fmt.Errorf("unknown command %q", name)
	}
	i := slices.IndexFunc(c.running, func(ch *child) bool { return ch.member.Name == memberName })
	if i < 0 {
		names := make([]string, len(c.running))
		for n, ch := range c.running {
			names[n] = ch.member.Name
		}
		return "", fmt.Errorf("no member %q: the members are %s", memberName, strings.Join(names, ", "))
	}
	ch := c.running[i]
	switch name {
	case cmdPause:
		return ch.pause()
	case cmdResume:
		return ch.resume()
	case cmdKill:
		return ch.killForGood()
	}
	return c.startAgain(i)
}

// pause stops the process of a member without ending it, as SIGSTOP does.
func (ch *child) pause() (string, error) {
	if ch.state() != stateRunning {
		return "", ch.wrongState()
	}
	if err := pauseProcess(ch.signal); err != nil {
		return "", fmt.Errorf("%s: %w", ch.member.Name, err)
	}
	ch.paused = true
	return ch.String() + " is paused", nil
}

// resume continues a paused member.
func (ch *child) resume() (string, error) {
	if ch.state() != statePaused {
		return "", ch.wrongState()
	}
	if err := resumeProcess(ch.signal); err != nil {
		return "", fmt.Errorf("%s: %w", ch.member.Name, err)
	}
	ch.paused = false
	return ch.String() + " runs again", nil
}

// killForGood kills a member, which then stays down until it is restarted.
func (ch *child) killForGood() (string, error) {
	if ch.state() == stateKilled {
		return "", ch.wrongState()
	}
	ch.down = true
	_ = ch.kill() // it may have ended by itself
	<-ch.done
	return ch.String() + " is killed; \"devetcd restart " + ch.member.Name + "\" starts it again", nil
}

// startAgain starts a member again, and kills it first if it runs.
func (c *cluster) startAgain(i int) (string, error) {
	ch := c.running[i]
	ch.down = true
	_ = ch.kill()
	<-ch.done
	next, err := c.launch(ch.member)
	if err != nil {
		return "", err
	}
	c.running[i] = next
	return next.String() + " is restarted", nil
}
