package lease_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lease"
)

const holderEnv = "ETCDKIT_TEST_HOLDER"

// TestHolderProcess is what the process of the next test does: it holds sessions, and says what it
// sees when it looks at them for the first time after it was not running for a while.
func TestHolderProcess(t *testing.T) { //nolint:paralleltest // a process of its own
	if os.Getenv(holderEnv) == "" {
		t.Skip("not a process of the test below")
	}
	const n, ttl = 50, 2 * time.Second
	m := newManager(t, etcdtest.Client(t))
	var all []*lease.Session
	for range n {
		s, err := m.OpenSession(t.Context(), lease.WithTTL(ttl))
		require.NoError(t, err)
		all = append(all, s)
	}
	last := time.Now() // before anybody can know that it is time to stop this process
	fmt.Fprintln(os.Stderr, "holding")
	for now := time.Now(); now.Sub(last) < ttl; { // as long as it is running
		last, now = now, time.Now()
	}
	var valid, open int
	for _, s := range all {
		if s.Context().Err() == nil {
			open++
		}
		if s.Err() == nil {
			valid++
		}
	}
	fmt.Fprintln(os.Stderr, "after a stop:", valid, "valid,", open, "contexts open")
}

func TestSession_IsLostAtFirstCheckAfterProcessStop(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestHolderProcess$", "-test.v")
	cmd.Env = append(os.Environ(), holderEnv+"=1", "ETCDKIT_TEST_ENDPOINTS="+strings.Join(etcdtest.Endpoints(), ","))
	says, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(says)
	require.True(t, lines.Scan())
	require.Equal(t, "holding", lines.Text())
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	timer := time.NewTimer(4 * time.Second) // twice the TTL
	<-timer.C
	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	require.True(t, lines.Scan())
	assert.Equal(t, "after a stop: 0 valid, 0 contexts open", lines.Text())
	require.NoError(t, cmd.Wait())
}
