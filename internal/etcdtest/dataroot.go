package etcdtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	rootPattern = "etcdkit-test-*"
	lockName    = "lock"

	// maxUnlockedAge is how long a root without a lock file is kept, because its process may be about
	// to create the file.
	maxUnlockedAge = time.Minute
)

// dataRoot is the directory below which all servers of this process keep their data.
//
//nolint:gochecknoglobals // it belongs to the process, as the shared server does
var dataRoot struct {
	mu   sync.Mutex
	dir  string
	lock *os.File // held until the process ends, so that others can tell whether it is alive
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

// openDataRoot creates the root in memory or, if that fails, in the temporary directory. It removes
// abandoned roots in both.
func openDataRoot() error {
	var errs []error
	for _, parent := range []string{memoryDir(), os.TempDir()} {
		if parent == "" {
			continue
		}
		if err := openDataRootIn(parent); err != nil {
			errs = append(errs, err)
		}
	}
	if dataRoot.dir == "" {
		return errors.Join(errs...)
	}
	return nil
}

// openDataRootIn removes the abandoned roots in parent, and creates the root there if there is none
// yet.
func openDataRootIn(parent string) error {
	removeAbandonedRoots(parent)
	if dataRoot.dir != "" {
		return nil
	}
	dir, err := os.MkdirTemp(parent, rootPattern)
	if err != nil {
		return err
	}
	lock, err := createLocked(filepath.Join(dir, lockName))
	if err != nil {
		return err
	}
	dataRoot.dir, dataRoot.lock = dir, lock
	return nil
}

// removeAbandonedRoots removes the roots of processes that have ended, whose locks are free.
// Process IDs would not show this, because processes of other containers may share parent.
func removeAbandonedRoots(parent string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, rootPattern)) // the pattern is well-formed
	for _, dir := range dirs {
		if !isInUse(dir) {
			_ = os.RemoveAll(dir) // fails for another user's root
		}
	}
}

// isInUse reports whether the process of a root is alive, or may be.
func isInUse(dir string) bool {
	lock := filepath.Join(dir, lockName)
	if !exists(lock) {
		info, err := os.Stat(dir)
		return err != nil || time.Since(info.ModTime()) < maxUnlockedAge
	}
	file, err := lockFile(lock, false)
	if err != nil {
		return true
	}
	_ = file.Close() // before the removal, because Windows does not remove open files
	return false
}

// releaseDataRoot removes the root after the tests.
func releaseDataRoot() {
	dataRoot.mu.Lock()
	defer dataRoot.mu.Unlock()
	if dataRoot.dir == "" {
		return
	}
	_ = dataRoot.lock.Close() // before the removal, because Windows does not remove open files
	_ = os.RemoveAll(dataRoot.dir)
	dataRoot.dir, dataRoot.lock = "", nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
