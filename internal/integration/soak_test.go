//nolint:paralleltest // a cluster, and the machine, to itself
package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const soakEnv = "ETCDKIT_SOAK" // for how long the soak lasts, such as "20m"

// leftoversEnd is the time after which what faults have left behind is gone, and the number of
// leases is steady: the leases of operation slots last a minute and are replaced every 30 s, the
// sessions of the storm last [stormTTL], and a new leader of etcd extends each once.
const leftoversEnd = 80 * time.Second

// measureProcess returns the heap in bytes and the goroutines of this process: the least of some
// samples, since calls are under way.
func measureProcess() (heap uint64, goroutines int) {
	const samples, interval = 20, 200 * time.Millisecond
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for i := range samples {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		n := runtime.NumGoroutine()
		if i == 0 {
			heap, goroutines = m.HeapAlloc, n
		}
		heap, goroutines = min(heap, m.HeapAlloc), min(goroutines, n)
		<-tick.C
	}
	return heap, goroutines
}

// levels measures a process of the storm and what it has on the servers.
func (r *stormRun) levels(t *testing.T, p *stormChild) []level {
	t.Helper()
	p.tell("measure")
	var heap, goroutines int64
	_, err := fmt.Sscan(<-p.lines, &heap, &goroutines)
	require.NoError(t, err)
	var streams, watches, leases, keys int64
	for i := range 5 { // the least of some samples, likewise
		var s, w float64
		for _, m := range r.cluster.Members {
			s += m.Metric("etcd_debugging_mvcc_watch_stream_total")
			w += m.Metric("etcd_debugging_mvcc_watcher_total")
		}
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		l, err := r.admin.Leases(ctx)
		require.NoError(t, err)
		k, err := r.admin.Get(ctx, "", clientv3.WithFromKey(), clientv3.WithCountOnly())
		require.NoError(t, err)
		stop()
		now := []int64{int64(s), int64(w), int64(len(l.Leases)), k.Count}
		for j, v := range []*int64{&streams, &watches, &leases, &keys} {
			if i == 0 || now[j] < *v {
				*v = now[j]
			}
		}
		spend(t, 300*time.Millisecond)
	}
	return []level{
		{"heap of the process in bytes", heap, 0, 1 << 20},
		{"goroutines of the process", goroutines, 0, 10},
		{"watch streams on the servers", streams, 0, 2},
		{"watches on the servers", watches, 0, 6},
		{"leases", leases, 0, 2},
		{"keys", keys, 0, 10},
	}
}

// inventory lists what the cluster holds: the keys by directory, and each lease with its TTL and
// its keys.
func (r *stormRun) inventory(t *testing.T) string {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	keys, err := r.admin.Get(ctx, "", clientv3.WithFromKey(), clientv3.WithKeysOnly())
	require.NoError(t, err)
	dirs := map[string][]string{}
	for _, e := range keys.Kvs {
		dir, name := path.Split(string(e.Key))
		dirs[dir] = append(dirs[dir], name)
	}
	var b strings.Builder
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		fmt.Fprintf(&b, "%4d keys in %s: %s\n", len(dirs[dir]), dir, strings.Join(dirs[dir], " "))
	}
	leases, err := r.admin.Leases(ctx)
	require.NoError(t, err)
	for _, l := range leases.Leases {
		left, err := r.admin.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
		require.NoError(t, err)
		fmt.Fprintf(&b, "lease %x, %d of %d s left: %q\n", l.ID, left.TTL, left.GrantedTTL, left.Keys)
	}
	return b.String()
}

// leftovers lists what a process that rests should not have: leases without a key of its long-lived
// parts, and keys of its work. Levels alone do not show a session that is not closed, because faults
// end it.
func (r *stormRun) leftovers(t *testing.T) (found []string) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	leases, err := r.admin.Leases(ctx)
	require.NoError(t, err)
	for _, l := range leases.Leases {
		left, err := r.admin.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
		require.NoError(t, err)
		if left.TTL > 0 && !slices.ContainsFunc(left.Keys, func(key []byte) bool {
			return bytes.HasPrefix(key, []byte(stormDir+"keys/")) || bytes.HasPrefix(key, []byte(stormDir+"services/"))
		}) {
			found = append(found, fmt.Sprintf("lease %x, %d of %d s left: %q", l.ID, left.TTL, left.GrantedTTL, left.Keys))
		}
	}
	for _, dir := range []string{"sess/", "locks/", "elections/", ".etcdkit/"} {
		keys, err := r.admin.Get(ctx, stormDir+dir, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		require.NoError(t, err)
		for _, e := range keys.Kvs {
			found = append(found, string(e.Key))
		}
	}
	return found
}

// explained are the warnings that the failure model explains, by what they begin with.
var explained = []string{
	"a lease is left to expire",
	"cache is fresh again", "cache is staler than allowed", "cache reopens its watch", "cache watch is live again",
	"campaigning failed", "campaigning resumed",
	"config can be used again", "config could not be used",
	"etcd accepts the login again", "etcd rejects the login",
	"etcd endpoint evicted", "etcd endpoint readmitted", "etcd endpoints answer again", "no etcd endpoint answers",
	"holding back a sudden loss",
	"instance id is taken; registration waits for the holder's lease to expire",
	"key is not restored yet", "key is restored", "keys are deleted again", "keys are not deleted yet",
	"lease lost", "leases are not renewed", "leases are renewed again", "lock lost",
	"TLS file can be read again", "TLS file cannot be read",
	"watch ended; reopening it", "watch is live again", "watches are interrupted", "watches continue",
}

// checkLogs fails the test for each warning of a process that the failure model does not explain,
// and for secrets.
func (r *stormRun) checkLogs(t *testing.T) {
	t.Helper()
	counts := map[string]int{}
	for _, p := range r.processes {
		text, err := os.ReadFile(p.plan.Log)
		require.NoError(t, err)
		journal, err := os.ReadFile(p.plan.Journal)
		require.NoError(t, err)
		for _, text := range [][]byte{text, journal} { // the second has all errors
			assert.False(t, bytes.Contains(text, []byte(stormPassword)), "the log or an error of %s has a password", p.plan.Name)
		}
		for line := range strings.Lines(string(text)) {
			var record struct{ Level, Msg string }
			if json.Unmarshal([]byte(line), &record) != nil || record.Level != "WARN" && record.Level != "ERROR" {
				continue // the last line of a killed process may be incomplete
			}
			counts[record.Msg]++
			if !slices.ContainsFunc(explained, func(known string) bool { return strings.HasPrefix(record.Msg, known) }) {
				assert.Fail(t, "the failure model does not explain a warning", "%s: %s", p.plan.Name, line)
			}
		}
	}
	t.Logf("warnings: %v", counts)
}

// TestSoak has one process use all packages while faults are made, and compares what it has
// afterwards with what it had after warm-up.
func TestSoak(t *testing.T) {
	text := os.Getenv(soakEnv)
	if text == "" {
		t.Skipf("%s is not set", soakEnv)
	}
	lasts, err := time.ParseDuration(text)
	require.NoError(t, err)
	seed := rand.Uint64()
	t.Logf("%s=%s, seed %d", soakEnv, text, seed)
	r := newStormRun(t)
	r.setConfig(t)
	r.join(t, newLink(t, r.cluster))
	p := r.processes[0]
	require.Equal(t, "working", <-p.lines)
	spend(t, max(lasts/5, leftoversEnd))
	levels, before := r.levels(t, p), r.inventory(t)
	n := &nemesis{stormRun: r, rand: rand.New(rand.NewPCG(seed, 0)), counts: map[string]int{}, spare: []string{"kill a client"}}
	n.rage(t, time.Now().Add(lasts*3/5))
	require.False(t, t.Failed(), "a fault could not be made, or put right")
	spend(t, max(lasts/5, leftoversEnd))
	t.Logf("after warm-up:\n%s", before)
	t.Logf("at the end:\n%s", r.inventory(t))
	for i, end := range r.levels(t, p) {
		l := &levels[i]
		l.End, l.Margin = end.Warm, max(l.Warm/10, l.Margin)
		t.Logf("%+v", *l)
		assert.False(t, l.exceeded(), "%+v", *l)
	}
	r.order(t, "rest", "resting")
	left := r.leftovers(t)
	for end := time.Now().Add(leftoversEnd); len(left) > 0 && time.Now().Before(end); left = r.leftovers(t) {
		spend(t, time.Second)
	}
	assert.Empty(t, left, "nothing of the work is left")
	r.checkLogs(t)
	record(t, func(all *reliability) {
		all.Soak = newReliabilityRun(t, "make soak", text)
		all.Soak.Faults, all.Soak.Levels = n.counts, levels
	})
	require.NoError(t, p.in.Close())
	for range p.lines { // until it has closed everything
	}
}
