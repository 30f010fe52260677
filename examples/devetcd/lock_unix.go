//go:build unix && !aix && (!solaris || illumos)

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lockDir locks a directory until unlock is called or the process ends. It fails at once if another
// process holds the lock.
func lockDir(dir string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(dir, "devetcd.lock"), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // where the user says
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("-data: another devetcd uses %s", dir)
		}
		return nil, fmt.Errorf("-data: lock %s: %w", dir, err)
	}
	return func() { _ = file.Close() }, nil // which releases the lock
}
