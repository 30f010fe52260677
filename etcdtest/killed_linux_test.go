package etcdtest_test

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// holdServer runs this test binary as a process that holds a server, and returns the process and
// the arguments of the server's process by its ID.
func holdServer(t *testing.T) (*exec.Cmd, map[int][]string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), roleEnv+"=hold a server", "ETCDKIT_TEST_ENDPOINTS=")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return cmd, children(t, cmd.Process.Pid)
}

// children returns the arguments of the processes whose parent is the given one.
func children(t *testing.T, parent int) map[int][]string {
	t.Helper()
	found := map[int][]string{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// The parent is the second field after the name, which is in parentheses and may hold any
		// byte.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		dir := filepath.Dir(file)
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		pid, err := strconv.Atoi(filepath.Base(dir))
		require.NoError(t, err)
		found[pid] = strings.Split(string(args), "\x00")
	}
	return found
}

func TestKilledTestProcess_LeavesNothing(t *testing.T) {
	t.Parallel()
	cmd, servers := holdServer(t)
	require.Len(t, servers, 1)
	var pid int
	var data string
	for id, args := range servers {
		pid = id
		for _, arg := range args {
			if dir, ok := strings.CutPrefix(arg, "--data-dir="); ok {
				data = filepath.Dir(filepath.Dir(dir)) // of all servers of the process
			}
		}
	}
	require.DirExists(t, data)

	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed

	assert.Eventually(t, func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH }, 10*time.Second, 5*time.Millisecond)
	holdServer(t) // the next run
	assert.NoDirExists(t, data)
}
