//go:build unix

package etcdtest

import "syscall"

// pause stops the process as SIGSTOP does and returns when it no longer runs.
func (p *process) pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return waitStopped(p.cmd.Process.Pid)
}

// resume lets a paused process go on.
func (p *process) resume() error { return p.signal(syscall.SIGCONT) }

// terminate asks the process to stop, paused or not.
func (p *process) terminate() error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	_ = p.signal(syscall.SIGCONT) // a stopped process receives the first signal only then
	return nil
}

func (p *process) signal(sig syscall.Signal) error {
	if err := p.endedError(); err != nil {
		return err
	}
	return p.cmd.Process.Signal(sig)
}
