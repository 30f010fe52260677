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

// TestRegistrant is what the process of the next test does: it registers, and says so, until it is
// killed.
func TestRegistrant(t *testing.T) { //nolint:paralleltest // a process of its own
	dir := os.Getenv(registrantEnv)
	if dir == "" {
		t.Skip("not a process of the test below")
	}
	r, _ := newProcess(t, dir, discovery.WithTTL(killedTTL))
	reg := register(t, r, newInstance("orders", "a"))
	fmt.Fprintln(os.Stderr, "registered")
	<-reg.Context().Done()
}

func TestView_KilledProcessIsGoneAfterTTL(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	require.NoError(t, err)
	dir := etcdtest.Prefix(t)
	r, p := newProcess(t, dir, discovery.WithTTL(killedTTL))
	s := view(t, r, "orders")
	for range shortOrLong(1, 5) {
		killed := registerAndBeKilled(t, s, exe, dir)
		waitForInstances(t, s)
		took := time.Since(killed)
		t.Logf("gone from a view %v after a kill, with a TTL of %v", took, killedTTL)
		checkDuration(t, took, killedTTL+time.Second)

		killed = registerAndBeKilled(t, s, exe, dir)
		elsewhere := newInstance("orders", "a")
		elsewhere.Port++ // at the same address it would not wait
		reg := register(t, r, elsewhere)
		took = time.Since(killed)
		t.Logf("the ID was free again %v after a kill", took)
		checkDuration(t, took, killedTTL+time.Second)
		require.NoError(t, reg.Close())
		waitForInstances(t, s)
		assert.Empty(t, keyLeases(t, p.Raw, dir))
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
	waitForInstances(t, s, "a")
	require.NoError(t, cmd.Process.Kill())
	killed = time.Now()
	_ = cmd.Wait() // killed
	return killed
}
