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

	// maxUnlockedAge is how old a root without a lock may be: its process is about to create one.
	maxUnlockedAge = time.Minute
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

// openDataRoot makes the root in the first place that allows it, and sweeps all of them.
func openDataRoot() error {
	var errs []error
	for _, place := range []string{memoryDir(), os.TempDir()} {
		if place == "" {
			continue
		}
		if err := openDataRootIn(place); err != nil {
			errs = append(errs, err)
		}
	}
	if dataRoot.dir == "" {
		return errors.Join(errs...)
	}
	return nil
}

// openDataRootIn sweeps place, and makes the root there if there is none yet.
func openDataRootIn(place string) error {
	sweep(place)
	if dataRoot.dir != "" {
		return nil
	}
	dir, err := os.MkdirTemp(place, rootPattern)
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

// sweep removes the roots of processes that are gone: nobody holds their lock any more. Process
// numbers would mean nothing across containers.
func sweep(place string) {
	dirs, _ := filepath.Glob(filepath.Join(place, rootPattern)) // the pattern is well-formed
	for _, dir := range dirs {
		if !inUse(dir) {
			_ = os.RemoveAll(dir) // another user's stays
		}
	}
}

func inUse(dir string) bool {
	lock := filepath.Join(dir, lockName)
	if !exists(lock) {
		info, err := os.Stat(dir)
		return err != nil || time.Since(info.ModTime()) < maxUnlockedAge
	}
	file, err := lockFile(lock, false)
	if err != nil {
		return true
	}
	_ = file.Close() // before the removal: Windows removes no file that is open
	return false
}

// releaseDataRoot removes what is left when the tests are over.
func releaseDataRoot() {
	dataRoot.mu.Lock()
	defer dataRoot.mu.Unlock()
	if dataRoot.dir == "" {
		return
	}
	_ = dataRoot.lock.Close() // before the removal: Windows removes no file that is open
	_ = os.RemoveAll(dataRoot.dir)
	dataRoot.dir, dataRoot.lock = "", nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
