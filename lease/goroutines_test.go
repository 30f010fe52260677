package lease_test

import (
	"bytes"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lease"
)

// bubbleGoroutines counts the goroutines of the caller's synctest bubble.
func bubbleGoroutines(t *testing.T) int {
	t.Helper()
	buf := make([]byte, 1<<22)
	buf = buf[:runtime.Stack(buf, true)]
	first, _, _ := strings.Cut(string(buf), "\n")
	_, bubble, ok := strings.Cut(first, "synctest bubble ")
	if !ok {
		t.Fatalf("not in a bubble: %s", first)
	}
	bubble = strings.TrimRight(bubble, "]:")
	n := 0
	for part := range bytes.SplitSeq(buf, []byte("\n\n")) {
		head, _, _ := strings.Cut(string(part), "\n")
		if _, at, ok := strings.Cut(head, "synctest bubble "); ok && strings.TrimRight(at, "]:") == bubble {
			n++
		}
	}
	return n
}

// TestManager_ThousandUsersNeedThreeGoroutines counts all goroutines of the process, so nothing
// else may run.
func TestManager_ThousandUsersNeedThreeGoroutines(t *testing.T) { //nolint:paralleltest // see above
	count := etcdtest.Counter(t)
	cli := count.Client(t)
	_, err := cli.Get(t.Context(), "the connection is there")
	require.NoError(t, err)
	m := newManager(t, cli, lease.WithSessionTTL(6*time.Second))
	before := runtime.NumGoroutine()
	for range 1000 {
		_, release, err := m.Acquire(t.Context())
		require.NoError(t, err)
		t.Cleanup(release)
	}
	for range 1000 {
		_, err := m.Shared(t.Context())
		require.NoError(t, err)
	}
	assert.Equal(t, 4, count.Count("Lease/LeaseGrant"), "256 who put a key on it to a lease, and any number of others")
	require.Eventually(t, func() bool { return m.Stats().Renewals >= 4 }, 20*time.Second, 10*time.Millisecond)
	stay := runtime.NumGoroutine() // and not those that a timer starts for a moment
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for range 50 {
		<-ticker.C
		stay = min(stay, runtime.NumGoroutine())
	}
	assert.LessOrEqual(t, stay-before, 3)
	assert.Equal(t, 1, count.Count("Lease/LeaseKeepAlive"), "one stream")
	assert.Equal(t, 4, count.Sent("Lease/LeaseKeepAlive"), "with one message for each lease in a third of its TTL")
}
