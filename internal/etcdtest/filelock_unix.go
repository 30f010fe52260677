//go:build unix

package etcdtest

import (
	"fmt"
	"os"
	"syscall"
)

// lockFile opens path and takes the advisory lock on it, which ends when the file is closed or the
// process dies. If another process has the lock, lockFile waits, or returns an error if wait is
// false.
func lockFile(path string, wait bool) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR { //nolint:errorlint // a bare errno
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// createLocked creates a file that is locked from the moment it exists.
func createLocked(path string) (*os.File, error) {
	f, err := lockFile(path+".new", false)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
