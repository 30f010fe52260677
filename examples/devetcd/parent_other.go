//go:build !linux

package main

import "syscall"

// dieWithParent leaves it to the child to notice the end of its standard input.
func dieWithParent() *syscall.SysProcAttr { return nil }
