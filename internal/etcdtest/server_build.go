package etcdtest

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	buildTimeout = 5 * time.Minute     // a registry that does not answer must not hang the tests
	maxBuildAge  = 30 * 24 * time.Hour // since it was made
	buildPattern = "build-*"
)

// etcdSource is a module with a command that runs etcd. Its files have another extension because a
// directory with a go.mod would be a module of its own, which users of this one do not have.
//
//go:embed etcd/*.txt
var etcdSource embed.FS

// builtServer returns an etcd that is built at most once for each version of it and of Go.
func builtServer() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a place for the built server: %w", err)
	}
	cache = filepath.Join(cache, "etcdkit")
	id, err := buildID()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(cache, "etcd-"+id)
	if runtime.GOOS == "windows" {
		bin += ".exe"
	}
	if exists(bin) {
		return bin, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := lockFile(filepath.Join(cache, "etcd.lock"), true)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if exists(bin) {
		return bin, nil // another test binary was faster
	}
	sweepBuilds(cache)
	return bin, build(bin)
}

// sweepBuilds removes old builds, and what interrupted ones have left. The lock is held.
func sweepBuilds(cache string) {
	left, _ := filepath.Glob(filepath.Join(cache, buildPattern)) // the pattern is good
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
	// The second pattern is the name that older versions used.
	for _, pattern := range []string{"etcd-*", "devetcd*"} {
		old, _ := filepath.Glob(filepath.Join(cache, pattern))
		for _, bin := range old {
			if info, err := os.Stat(bin); err == nil && time.Since(info.ModTime()) > maxBuildAge {
				_ = os.Remove(bin)
			}
		}
	}
}

// build compiles etcd. bin appears complete or not at all.
func build(bin string) error {
	dir, err := os.MkdirTemp(filepath.Dir(bin), buildPattern)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	err = eachSource(func(name string, text []byte) error {
		return os.WriteFile(filepath.Join(dir, name), text, 0o600)
	})
	if err != nil {
		return err
	}
	out := filepath.Join(dir, filepath.Base(bin))
	ctx, cancel := context.WithTimeout(background(), buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-o", out, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "GOOS=", "GOARCH=", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build etcd: %w\n%s", err, text)
	}
	return os.Rename(out, bin)
}

// buildID names what a build depends on.
func buildID() (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	err := eachSource(func(name string, text []byte) error {
		fmt.Fprintln(h, name, len(text))
		_, err := h.Write(text)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)[:8]), err
}

// eachSource calls f for each file of etcd's module, by the name that it has there.
func eachSource(f func(name string, text []byte) error) error {
	files, err := fs.Glob(etcdSource, "etcd/*.txt")
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := etcdSource.ReadFile(file)
		if err != nil {
			return err
		}
		if err := f(strings.TrimSuffix(filepath.Base(file), ".txt"), text); err != nil {
			return err
		}
	}
	return nil
}
