//go:build unix

package main

import (
	"net"
	"os"
	"syscall"
)

// listenPrivate listens on a Unix socket that only this user can connect to from the start.
func listenPrivate(name string) (*net.UnixListener, error) {
	defer syscall.Umask(syscall.Umask(0o177))
	return net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
}

func pauseProcess(signal func(os.Signal) error) error { return signal(syscall.SIGSTOP) }

func resumeProcess(signal func(os.Signal) error) error { return signal(syscall.SIGCONT) }

// isOwn reports whether a file belongs to this user.
func isOwn(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Getuid()
}
