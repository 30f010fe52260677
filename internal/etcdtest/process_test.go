//go:build unix

package etcdtest_test

import (
	"bufio"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// again is this test binary in a part of its own.
func again(t *testing.T, role string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// firstLine is what the process has printed before the test framework did.
func firstLine(out []byte) string {
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

func reachable(t *testing.T, endpoint string) bool {
	t.Helper()
	u, err := url.Parse(endpoint)
	require.NoError(t, err)
	c, err := net.Dial("tcp", u.Host)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

func TestProcess_ServerDiesWithKilledTest(t *testing.T) {
	t.Parallel()
	cmd := again(t, "hold a server until killed", "ETCDKIT_TEST_ENDPOINTS=")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	endpoint, data, _ := strings.Cut(strings.TrimSpace(line), " ")
	require.True(t, reachable(t, endpoint))
	require.DirExists(t, data)

	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed

	assert.Eventually(t, func() bool { return !reachable(t, endpoint) }, 5*time.Second, 5*time.Millisecond)

	printed, err := again(t, "print the endpoint", "ETCDKIT_TEST_ENDPOINTS=").CombinedOutput()
	require.NoError(t, err, string(printed))
	assert.NoDirExists(t, data, "the next run removes what a killed one has left")
}

func TestProcess_ConcurrentBinariesBuildOnce(t *testing.T) {
	t.Parallel()
	caches, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE", "GOMODCACHE").Output()
	require.NoError(t, err)
	gocache, gomodcache, _ := strings.Cut(strings.TrimSpace(string(caches)), "\n")
	home := t.TempDir()
	const parties = 3
	var endpoints sync.Map
	var wg sync.WaitGroup
	for range parties {
		wg.Go(func() {
			cmd := again(t, "print the endpoint", "ETCDKIT_TEST_ENDPOINTS=", "ETCDKIT_TEST_ETCD=",
				"HOME="+home, "XDG_CACHE_HOME="+home, "GOCACHE="+gocache, "GOMODCACHE="+gomodcache)
			out, err := cmd.CombinedOutput()
			assert.NoError(t, err, string(out))
			endpoints.Store(firstLine(out), true)
		})
	}
	wg.Wait()

	distinct := 0
	endpoints.Range(func(any, any) bool { distinct++; return true })
	assert.Equal(t, parties, distinct)
	lock, err := filepath.Glob(filepath.Join(home, "*", "etcd.lock"))
	require.NoError(t, err)
	if len(lock) == 0 { // where caches have a folder in the home
		lock, err = filepath.Glob(filepath.Join(home, "*", "*", "*", "etcd.lock"))
		require.NoError(t, err)
	}
	require.Len(t, lock, 1)
	files, err := os.ReadDir(filepath.Dir(lock[0]))
	require.NoError(t, err)
	assert.Len(t, files, 2, "the program and its lock: %v", files)
}

// wrapper is a script that leaves a mark and then is etcd.
func wrapper(mark string, etcd []string) []byte {
	return []byte("#!/bin/sh\n: > " + mark + "\nexec " + strings.Join(etcd, " ") + " \"$@\"\n")
}

func TestProcess_FindsServerByEnvironment(t *testing.T) {
	t.Parallel()

	t.Run("as running endpoints", func(t *testing.T) {
		t.Parallel()
		srv := etcdtest.Start(t)
		out, err := again(t, "print the endpoint", "ETCDKIT_TEST_ENDPOINTS="+srv.Endpoint()).CombinedOutput()
		require.NoError(t, err, string(out))
		assert.Equal(t, srv.Endpoint(), firstLine(out))
	})
	t.Run("as a binary that takes etcd's flags", func(t *testing.T) {
		t.Parallel()
		command, err := etcdtest.ServerCommand()
		require.NoError(t, err)
		script := filepath.Join(t.TempDir(), "etcd")
		mark := filepath.Join(t.TempDir(), "used")
		require.NoError(t, os.WriteFile(script, wrapper(mark, command), 0o700))
		out, err := again(t, "print the endpoint", "ETCDKIT_TEST_ENDPOINTS=", "ETCDKIT_TEST_ETCD="+script).CombinedOutput()
		require.NoError(t, err, string(out))
		assert.FileExists(t, mark)
	})
	t.Run("as etcd on the PATH, unless it is too old", func(t *testing.T) {
		t.Parallel()
		command, err := etcdtest.ServerCommand()
		require.NoError(t, err)
		for name, old := range map[string]string{"supported": "", "old": "echo etcd Version: 3.5.12; exit"} {
			dir := t.TempDir()
			mark := filepath.Join(dir, "used")
			text := append([]byte("#!/bin/sh\n"+old+"\n"), wrapper(mark, command)...)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "etcd"), text, 0o700))
			out, err := again(t, "print the endpoint", "ETCDKIT_TEST_ENDPOINTS=", "ETCDKIT_TEST_ETCD=",
				"PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH")).CombinedOutput()
			require.NoError(t, err, string(out))
			_, err = os.Stat(mark)
			assert.Equal(t, old == "", err == nil, name)
		}
	})
	t.Run("never as ETCD_ENDPOINTS", func(t *testing.T) {
		t.Parallel()
		const production = "http://127.0.0.1:1"
		out, err := again(t, "print the endpoint", "ETCD_ENDPOINTS="+production).CombinedOutput()
		require.NoError(t, err, string(out))
		assert.NotEqual(t, production, firstLine(out))
	})
}

func TestProcess_FailureExplainsMissingServer(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	tests := map[string]struct {
		env  []string
		want string
	}{
		"a binary that is not there":   {[]string{"ETCDKIT_TEST_ETCD=/no/such/etcd"}, "/no/such/etcd"},
		"no go command":                {[]string{"PATH=" + empty}, "executable file not found"},
		"modules that cannot be had":   {[]string{"GOMODCACHE=" + empty, "GOPROXY=off", "GOCACHE=" + empty}, "module lookup disabled"},
		"endpoints that do not answer": {[]string{"ETCDKIT_TEST_ENDPOINTS=127.0.0.1:1"}, "127.0.0.1:1 does not answer"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := append([]string{"ETCDKIT_TEST_ENDPOINTS=", "ETCDKIT_TEST_ETCD=", "HOME=" + empty, "XDG_CACHE_HOME=" + t.TempDir()}, tc.env...)
			out, err := again(t, "print the endpoint", env...).CombinedOutput()
			require.Error(t, err)
			assert.Contains(t, string(out), tc.want)
			assert.Contains(t, string(out), "ETCDKIT_TEST_ENDPOINTS")
			assert.Contains(t, string(out), "ETCDKIT_TEST_ETCD")
			assert.Contains(t, string(out), "etcdtest/embedded")
		})
	}
}

func TestProcess_FailsOnLeakedGoroutines(t *testing.T) {
	t.Parallel()
	out, err := again(t, "leak a goroutine").CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), "goroutines outlive the tests")

	out, err = again(t, "").CombinedOutput()
	assert.NoError(t, err, string(out))
}

func TestProcess_SweepsOnlyDataOfFinishedRuns(t *testing.T) {
	t.Parallel()
	place := t.TempDir()
	root := func(name string) string { return filepath.Join(place, "etcdkit-test-"+name) }
	over, live, starting, unfinished := root("over"), root("live"), root("starting"), root("unfinished")
	for _, dir := range []string{over, live, starting, unfinished} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "shared-1", "data"), 0o700))
	}
	require.NoError(t, os.WriteFile(filepath.Join(over, "lock"), nil, 0o600))
	longAgo := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(unfinished, longAgo, longAgo))
	lock, err := os.Create(filepath.Join(live, "lock"))
	require.NoError(t, err)
	defer lock.Close()
	require.NoError(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))

	out, err := again(t, "print the endpoint", "ETCDKIT_TEST_ENDPOINTS=", "TMPDIR="+place).CombinedOutput()
	require.NoError(t, err, string(out))

	assert.NoDirExists(t, over)
	assert.DirExists(t, live)
	assert.DirExists(t, starting, "its process is about to lock it")
	assert.NoDirExists(t, unfinished)
}
