//go:build unix && !linux

package etcdtest

import "syscall"

// dieWithParent leaves it to the child to notice the end of its standard input.
func dieWithParent() *syscall.SysProcAttr { return nil }

// waitStopped trusts the signal: there is no portable way to ask.
func waitStopped(int) error { return nil }

// memoryDir is empty: there is no well-known directory in memory.
func memoryDir() string { return "" }
