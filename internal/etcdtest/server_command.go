package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	endpointsEnv = "ETCDKIT_TEST_ENDPOINTS"
	binaryEnv    = "ETCDKIT_TEST_ETCD"

	versionTimeout = 10 * time.Second
)

// embedded is the command that [UseServer] was given.
//
//nolint:gochecknoglobals // a server that is part of the binary is registered by an import
var embedded []string

// UseServer makes command, to be followed by etcd's flags, the server of this process unless the
// environment names another. The server must end when its standard input does. UseServer must be
// called before any server is started.
func UseServer(command ...string) { embedded = command }

// serverCommand is the command that runs etcd, to be followed by etcd's flags.
//
//nolint:gochecknoglobals // found, and possibly built, once for each process
var serverCommand = sync.OnceValues(func() ([]string, error) {
	if path := os.Getenv(binaryEnv); path != "" {
		path, err := exec.LookPath(path)
		if err != nil {
			return nil, noServerError(fmt.Errorf("%s: %w", binaryEnv, err))
		}
		return []string{path}, nil
	}
	if embedded != nil {
		return embedded, nil
	}
	if path, err := exec.LookPath("etcd"); err == nil {
		if v, err := versionOf([]string{path}); err == nil && isSupported(v) {
			return []string{path}, nil
		}
	}
	path, err := builtServer()
	if err != nil {
		return nil, noServerError(err)
	}
	return []string{path}, nil
})

func noServerError(cause error) error {
	return fmt.Errorf(`etcdtest: no etcd to test with: %w
Tests use the first of these that is there:
  %s=host:port  a running etcd whose keys they may change and delete (a server of a test's own needs one of the others)
  %s=/path/to/etcd   an etcd binary
  etcdtest/embedded               import this package in a test, and etcd is part of the test binary
  etcd                            on the PATH, 3.5.13 or later
  the go command                  which builds etcd once, in the user's cache directory, if it can get etcd's modules`,
		cause, endpointsEnv, binaryEnv)
}

// serverVersion is the version of the servers that serverCommand runs, such as "3.7.3".
//
//nolint:gochecknoglobals // asked once for each process
var serverVersion = sync.OnceValues(func() (string, error) {
	command, err := serverCommand()
	if err != nil {
		return "", err
	}
	return versionOf(command)
})

// versionOf runs a command that runs etcd to ask for its version.
func versionOf(command []string) (string, error) {
	ctx, cancel := context.WithTimeout(background(), versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], append(command[1:len(command):len(command)], "--version")...)
	cmd.Env = serverEnv()
	stdin, err := cmd.StdinPipe() // held open until the command has ended
	if err != nil {
		return "", err
	}
	defer stdin.Close()
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("etcdtest: ask %s for its version: %w", command[0], err)
	}
	match := regexp.MustCompile(`etcd Version: (\S+)`).FindSubmatch(out)
	if match == nil {
		return "", errors.New("etcdtest: " + command[0] + " --version names no version")
	}
	return string(match[1]), nil
}

// isSupported reports whether the library supports servers of a version in all its parts.
func isSupported(version string) bool { return AtLeast(version, 3, 5, 13) }

// AtLeast reports whether version, such as "3.7.3" or "3.8.0-rc.1", is not older than another one.
func AtLeast(version string, minimum ...int) bool {
	version, _, _ = strings.Cut(version, "-")
	parts := strings.Split(version, ".")
	for i, want := range minimum {
		if i >= len(parts) {
			return false
		}
		n, err := strconv.Atoi(parts[i])
		if err != nil || n < want {
			return false
		}
		if n > want {
			return true
		}
	}
	return true
}
