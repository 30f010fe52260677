//go:build !unix

package main

import (
	"errors"
	"net"
	"os"
)

// listenPrivate listens on a Unix socket, which the permissions of its directory protect.
func listenPrivate(name string) (*net.UnixListener, error) {
	return net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
}

var errNoSignals = errors.New("this system cannot pause a process")

func pauseProcess(func(os.Signal) error) error { return errNoSignals }

func resumeProcess(func(os.Signal) error) error { return errNoSignals }

func isOwn(os.FileInfo) bool { return true }
