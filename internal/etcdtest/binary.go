//go:build unix

package etcdtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// findBinary is the command that runs etcd, to be followed by etcd's flags.
//
//nolint:gochecknoglobals // found, and possibly built, once for each process
var findBinary = sync.OnceValues(func() ([]string, error) {
	if path := os.Getenv(binaryEnv); path != "" {
		path, err := exec.LookPath(path)
		if err != nil {
			return nil, noServer(fmt.Errorf("%s: %w", binaryEnv, err))
		}
		return []string{path}, nil
	}
	path, err := builtBinary()
	if err != nil {
		return nil, noServer(err)
	}
	return []string{path, "server", "-until-eof"}, nil
})

func noServer(cause error) error {
	return fmt.Errorf(`etcdtest: no etcd to test with: %w
Give the tests one of these:
  %s=host:port   a running etcd whose keys they may change and delete (tests that need a server of their own still want one of the next two)
  %s=/path/to/etcd    an etcd binary
  neither of them          the Go toolchain, this repository's examples/devetcd and the modules it needs: the tests then build etcd once`,
		cause, endpointsEnv, binaryEnv)
}

// builtBinary returns examples/devetcd, built at most once for each version of it and of Go.
func builtBinary() (string, error) {
	src, err := devetcdDir()
	if err != nil {
		return "", err
	}
	sum, err := hashOf(src)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a place for the built server: %w", err)
	}
	cache = filepath.Join(cache, "etcdkit")
	bin := filepath.Join(cache, "devetcd-"+sum)
	if exists(bin) {
		return bin, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := lockFile(filepath.Join(cache, "devetcd.lock"), syscall.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if exists(bin) {
		return bin, nil // another test binary was faster
	}
	sweepBuilds(cache)
	return bin, build(src, bin)
}

const (
	buildWithin  = 5 * time.Minute     // a registry that does not answer must not hang the tests
	keepBuilds   = 30 * 24 * time.Hour // since they were made
	buildPattern = "build-*"
)

// sweepBuilds removes builds of long ago, and what interrupted ones have left behind. The lock is held.
func sweepBuilds(cache string) {
	left, _ := filepath.Glob(filepath.Join(cache, buildPattern)) // the pattern is good
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
	old, _ := filepath.Glob(filepath.Join(cache, "devetcd-*"))
	for _, bin := range old {
		if info, err := os.Stat(bin); err == nil && time.Since(info.ModTime()) > keepBuilds {
			_ = os.Remove(bin)
		}
	}
}

// build compiles the module in src to bin. It appears there complete or not at all.
func build(src, bin string) error {
	dir, err := os.MkdirTemp(filepath.Dir(bin), buildPattern)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "devetcd")
	ctx, cancel := context.WithTimeout(background(), buildWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-buildvcs=false", "-o", out, ".")
	cmd.Dir = src
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", src, err, text)
	}
	return os.Rename(out, bin)
}

// devetcdDir finds examples/devetcd beside this package, or above the directory that the test runs in
// when the compiler was told to leave out the paths of sources.
func devetcdDir() (string, error) {
	var starts []string
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		starts = append(starts, filepath.Dir(file))
	}
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	for _, dir := range starts {
		for ; ; dir = filepath.Dir(dir) {
			if src := filepath.Join(dir, "examples", "devetcd"); exists(filepath.Join(src, "go.mod")) {
				return src, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", errors.New("examples/devetcd is not there to be built")
}

// hashOf names what a build of the module in dir depends on.
func hashOf(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	files = slices.DeleteFunc(files, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
	for _, name := range append(files, filepath.Join(dir, "go.mod"), filepath.Join(dir, "go.sum")) {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, filepath.Base(name))
		_, err = io.Copy(h, f)
		_ = f.Close()
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}
