package etcdtest

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// errSharingViolation is the error of a file that another handle has open without sharing it.
const errSharingViolation syscall.Errno = 32

// lockFile opens path without sharing it, which ends when the file is closed or the process dies.
// If another process has it, lockFile waits, or returns an error if wait is false.
func lockFile(path string, wait bool) (*os.File, error) {
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	for {
		const access, share = syscall.GENERIC_READ | syscall.GENERIC_WRITE, 0
		h, err := syscall.CreateFile(name, access, share, nil, syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
		switch {
		case err == nil:
			return os.NewFile(uintptr(h), path), nil
		case !wait || !errors.Is(err, errSharingViolation):
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// createLocked creates a file that is locked from the moment it exists.
func createLocked(path string) (*os.File, error) { return lockFile(path, false) }
