package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

// changeRecorder applies changes to a map and records those that contradict it.
type changeRecorder struct {
	mu         sync.Mutex
	state      map[string]kv.Entry[string]
	violations []string
}

func (l *changeRecorder) record(c cache.Change[string]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, known := l.state[c.New.Key]
	fault := ""
	switch {
	case c.Old.ModRevision == 0 && c.New.ModRevision == 0:
		fault = "nothing happened"
	case c.Old.ModRevision == 0 && known:
		fault = "created though it was there"
	case c.Old.ModRevision != 0 && !known:
		fault = "changed though it was not there"
	case known && old != c.Old:
		fault = "changed from another value"
	case c.New.ModRevision != 0 && c.New.ModRevision < c.Old.ModRevision:
		fault = "went back in time"
	}
	if fault != "" {
		l.violations = append(l.violations, fmt.Sprintf("%s: %+v, known: %+v", fault, c, old))
	}
	if c.New.ModRevision == 0 {
		delete(l.state, c.New.Key)
	} else {
		l.state[c.New.Key] = c.New
	}
}

func (l *changeRecorder) values() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]string{}
	for key, e := range l.state {
		out[key] = e.Value
	}
	return out
}

// Several clients of a cluster have a cache and a replica each. A member is killed, connections are
// cut and the history is compacted while random keys change. In the end all show what etcd has, and
// each change passed to a follower follows from the ones before.
func TestReplica_MatchesEtcdAfterFaults(t *testing.T) {
	t.Parallel()
	clients, trouble := 5, 6*time.Second
	if isLongRun() {
		clients, trouble = 10, 30*time.Second
	}
	cluster := etcdtest.StartCluster(t, 3)
	writer := parttest.New(t, cluster.Client(t), "app")
	var replicas []*cache.Replica[string]
	var caches []*cache.Cache[string]
	var listeners []*changeRecorder
	var proxies []*etcdtest.Proxy
	for range clients {
		var eps []string
		for _, m := range cluster.Members {
			proxy := m.Proxy(t)
			proxies = append(proxies, proxy)
			eps = append(eps, proxy.Endpoint())
		}
		p := parttest.New(t, etcdtest.NewClient(t, eps), "app")
		r := openReplica(t, p, "dir", kv.String())
		l := &changeRecorder{state: map[string]kv.Entry[string]{}}
		r.Follow(l.record)
		replicas, listeners = append(replicas, r), append(listeners, l)
		caches = append(caches, openCache(t, p, "dir", kv.String(), cache.WithMaxEntries(30)))
	}
	ctx, stop := context.WithTimeout(t.Context(), trouble)
	defer stop()
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() { writeRandomly(ctx, writer.KV(), g) })
	}
	for _, c := range caches {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, _ = c.Get(ctx, strconv.Itoa(rand.IntN(40)))
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			proxies[rand.IntN(len(proxies))].Cut()
			time.Sleep(20 * time.Millisecond)
		}
	})
	time.Sleep(trouble / 4)
	cluster.Members[1].Kill()
	time.Sleep(trouble / 4)
	cluster.Members[0].Compact(0)
	time.Sleep(trouble / 4)
	cluster.Members[1].Restart()
	cluster.Members[2].Compact(0)
	wg.Wait()

	rev := mustPut(t, writer.KV(), "dir/last", "x")
	for i, r := range replicas {
		wait, stop := context.WithTimeout(t.Context(), parttest.Timeout)
		require.NoError(t, r.WaitRevision(wait, rev))
		stop()
		waitUntilMatchesEtcd(t, writer.KV(), "the replica", func() map[string]string { return values(r) })
		waitUntilMatchesEtcd(t, writer.KV(), "the listener", listeners[i].values)
		waitUntilMatchesEtcd(t, writer.KV(), "the cache", func() map[string]string {
			got := map[string]string{"last": "x"}
			for _, key := range append(decimals(40), "batch-a", "batch-b") {
				if e, err := caches[i].GetAtLeast(t.Context(), key, rev); err == nil {
					got[key] = e.Value
				}
			}
			return got
		})
		listeners[i].mu.Lock()
		assert.Empty(t, listeners[i].violations)
		listeners[i].mu.Unlock()
	}
}

// waitUntilMatchesEtcd waits until actual returns what etcd has. It may take a while: a write whose
// response was lost can be applied late.
func waitUntilMatchesEtcd(t *testing.T, s *kv.Store, who string, have func() map[string]string) {
	t.Helper()
	parttest.Eventually(t, func() bool {
		want, err := s.Namespace("dir").Map(t.Context(), "")
		if err != nil {
			return false
		}
		got := have()
		if len(got) != len(want) {
			return false
		}
		for key, v := range want {
			if got[key] != string(v) {
				return false
			}
		}
		return true
	}, who+" agrees with etcd")
}

// decimals returns "0" to n-1.
func decimals(n int) (out []string) {
	for i := range n {
		out = append(out, strconv.Itoa(i))
	}
	return out
}

// writeRandomly changes random keys, one or several at a time.
func writeRandomly(ctx context.Context, s *kv.Store, g int) {
	for n := 0; ctx.Err() == nil; n++ {
		key := "dir/" + strconv.Itoa(rand.IntN(40))
		attempt, stop := context.WithTimeout(ctx, 2*time.Second)
		switch v := []byte(fmt.Sprint(g, "-", n)); rand.IntN(6) {
		case 0:
			_, _ = s.Delete(attempt, key)
		case 1:
			ops := []kv.Op{kv.OpPut("dir/batch-a", v), kv.OpPut("dir/batch-b", v), kv.OpDelete(key)}
			_, _ = s.Batch(attempt, ops...)
		default:
			_, _ = s.Put(attempt, key, v)
		}
		stop()
	}
}
