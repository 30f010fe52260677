package discovery_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

const registrantEnv = "ETCDKIT_TEST_REGISTRANT"

const killedTTL = 3 * time.Second

// TestRegistrant is what the process of the next test does: it registers, and says so, until it is killed.
func TestRegistrant(t *testing.T) { //nolint:paralleltest // a process of its own
	dir := os.Getenv(registrantEnv)
	if dir == "" {
		t.Skip("not a process of the test below")
	}
	r, _ := process(t, dir, discovery.WithTTL(killedTTL))
	reg := register(t, r, some("orders", "a"))
	fmt.Fprintln(os.Stderr, "registered")
	<-reg.Context().Done()
}

func TestView_KilledProcessIsGoneAfterTTL(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	require.NoError(t, err)
	dir := etcdtest.Prefix(t)
	r, p := process(t, dir, discovery.WithTTL(killedTTL))
	s := view(t, r, "orders")
	for range size(1, 5) {
		killed := registerAndBeKilled(t, s, exe, dir)
		shows(t, s)
		took := time.Since(killed)
		t.Logf("gone from a view %v after a kill, with a TTL of %v", took, killedTTL)
		inTime(t, took, killedTTL+time.Second)

		killed = registerAndBeKilled(t, s, exe, dir)
		elsewhere := some("orders", "a")
		elsewhere.Port++ // at the same address it would not wait
		reg := register(t, r, elsewhere)
		took = time.Since(killed)
		t.Logf("the ID was free again %v after a kill", took)
		inTime(t, took, killedTTL+time.Second)
		require.NoError(t, reg.Close())
		shows(t, s)
		assert.Empty(t, keys(t, p.cli, dir))
	}
}

// registerAndBeKilled is the life of a process, and when it ended.
func registerAndBeKilled(t *testing.T, s *discovery.Service, exe, dir string) (killed time.Time) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestRegistrant$", "-test.v")
	cmd.Env = append(os.Environ(), registrantEnv+"="+dir, "ETCDKIT_TEST_ENDPOINTS="+strings.Join(etcdtest.Endpoints(), ","))
	says, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(says)
	require.True(t, lines.Scan())
	require.Equal(t, "registered", lines.Text())
	shows(t, s, "a")
	require.NoError(t, cmd.Process.Kill())
	killed = time.Now()
	_ = cmd.Wait() // killed
	return killed
}
