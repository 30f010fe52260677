//go:build unix

package etcdtest

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is a child that cannot outlive this process.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the child has been waited for
}

// startProcess starts cmd and ties its life to ours twice over: the system kills the child when we die,
// where it offers that, and the child reads the end of its standard input.
func startProcess(cmd *exec.Cmd) (*process, error) {
	if _, err := cmd.StdinPipe(); err != nil { // Wait closes our end
		return nil, err
	}
	cmd.SysProcAttr = dieWithParent()
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// Linux sends the death signal when the starting *thread* ends, so the
		// thread is kept for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) signal(sig syscall.Signal) error {
	if p.exited() {
		return fmt.Errorf("etcdtest: %v to a server that is not running (%v)", sig, p.cmd.ProcessState)
	}
	return p.cmd.Process.Signal(sig)
}

// kill ends the process at once and returns when it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // the only error is that it is gone already
	<-p.done
}

// terminate asks the process to stop, paused or not, and returns when it is gone.
func (p *process) terminate(within time.Duration) error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	_ = p.signal(syscall.SIGCONT) // a stopped process would hear the first signal only then
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		p.kill()
		return fmt.Errorf("etcdtest: the server had to be killed: it did not stop within %v of SIGTERM", within)
	}
}
