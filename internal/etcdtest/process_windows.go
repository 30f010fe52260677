package etcdtest

import (
	"errors"
	"syscall"
)

var errNoPause = errors.New("etcdtest: a server cannot be paused on Windows: use Proxy and Blackhole")

func (*process) pause() error { return errNoPause }

func (*process) resume() error { return errNoPause }

// terminate kills the process: Windows has no signal that asks it to stop.
func (p *process) terminate() error {
	if err := p.endedError(); err != nil {
		return err
	}
	return p.cmd.Process.Kill()
}

// dieWithParent leaves it to the child to notice the end of its standard input.
func dieWithParent() *syscall.SysProcAttr { return nil }

// memoryDir is empty: there is no well-known directory in memory.
func memoryDir() string { return "" }
