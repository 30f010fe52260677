//go:build unix

package etcdtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

const (
	rootPattern  = "etcdkit-test-*"
	freshPattern = "etcdkit-new-*" // not locked yet
)

// dataRoot is the directory below which all servers of this process keep their data.
//
//nolint:gochecknoglobals // it belongs to the process, as the shared server does
var dataRoot struct {
	mu   sync.Mutex
	dir  string
	lock *os.File // held for the life of the process, so that others see whether it lives
}

// newDataDir returns a new directory for one server's data and log.
func newDataDir(name string) (string, error) {
	dataRoot.mu.Lock()
	defer dataRoot.mu.Unlock()
	if dataRoot.dir == "" {
		if err := openDataRoot(); err != nil {
			return "", fmt.Errorf("etcdtest: make a data directory: %w", err)
		}
	}
	return os.MkdirTemp(dataRoot.dir, name+"-*")
}

// openDataRoot makes the root where the first place allows it, and sweeps those places.
func openDataRoot() (err error) {
	for _, place := range []string{memoryDir(), os.TempDir()} {
		if place == "" {
			continue
		}
		sweep(place)
		if dataRoot.dir != "" {
			continue
		}
		if dataRoot.dir, dataRoot.lock, err = lockedRoot(place); err != nil {
			continue
		}
	}
	if dataRoot.dir != "" {
		return nil
	}
	return err
}

// lockedRoot makes a root that gets its name, by which a sweep finds it, only once it is locked.
func lockedRoot(place string) (string, *os.File, error) {
	fresh, err := os.MkdirTemp(place, freshPattern)
	if err != nil {
		return "", nil, err
	}
	lock, err := lockFile(lockName(fresh), syscall.LOCK_EX)
	if err != nil {
		return "", nil, err
	}
	dir := filepath.Join(place, strings.Replace(filepath.Base(fresh), "-new-", "-test-", 1))
	return dir, lock, os.Rename(fresh, dir)
}

// sweep removes the roots of processes that are gone: nobody holds their lock any more. The lock says so
// across containers too, where process numbers mean nothing.
func sweep(place string) {
	dirs, _ := filepath.Glob(filepath.Join(place, rootPattern)) // the pattern is well-formed
	for _, dir := range dirs {
		lock, err := lockFile(lockName(dir), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != nil {
			continue // in use, or not ours
		}
		_ = os.RemoveAll(dir) // the next run tries again
		_ = lock.Close()
	}
}

// releaseDataRoot removes what is left when the tests are over.
func releaseDataRoot() {
	dataRoot.mu.Lock()
	defer dataRoot.mu.Unlock()
	if dataRoot.dir == "" {
		return
	}
	_ = os.RemoveAll(dataRoot.dir) // what stays is swept later
	_ = dataRoot.lock.Close()
	dataRoot.dir, dataRoot.lock = "", nil
}

func lockName(dir string) string { return filepath.Join(dir, "lock") }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lockFile opens path and takes the advisory lock on it, which ends when the file is closed.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
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
