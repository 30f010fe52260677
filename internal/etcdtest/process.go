package etcdtest

import (
	"fmt"
	"os/exec"
	"runtime"
	"time"
)

// process is a child that cannot outlive this process.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the child has been waited for
}

// startProcess starts cmd and ties its life to this process in two ways: the system kills the child
// when this process dies, where the system offers that, and the child's standard input ends.
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

// endedError returns an error if the process does not run.
func (p *process) endedError() error {
	if p.exited() {
		return fmt.Errorf("etcdtest: the server is not running (%v)", p.cmd.ProcessState)
	}
	return nil
}

// kill ends the process at once and returns when it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // the only error is that it is gone already
	<-p.done
}

// stop asks the process to stop, paused or not, and returns when it is gone.
func (p *process) stop(timeout time.Duration) error {
	if err := p.terminate(); err != nil {
		return err
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		p.kill()
		return fmt.Errorf("etcdtest: the server had to be killed: it did not stop within %v", timeout)
	}
}
