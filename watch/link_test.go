package watch_test

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
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/watch"
)

func TestWatcher_LeavesDeadLinkForAnotherMember(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]func(s *etcdtest.Server, p *etcdtest.Proxy){
		"the link swallows everything": func(_ *etcdtest.Server, p *etcdtest.Proxy) { p.Blackhole(true, true) },
		"the member is frozen":         func(s *etcdtest.Server, _ *etcdtest.Proxy) { s.Pause() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := etcdtest.StartCluster(t, 3)
			var eps []string
			var proxies []*etcdtest.Proxy
			var mu sync.Mutex
			serving := -1
			for i, s := range cluster.Members {
				p := s.Proxy(t)
				p.OnDown(func(b []byte) {
					if len(b) > 200 { // the event below
						mu.Lock()
						serving = i
						mu.Unlock()
					}
				})
				proxies, eps = append(proxies, p), append(eps, p.Endpoint())
			}
			w := newWatcher(t, etcdtest.NewClient(t, eps))
			sub, got := subscribe(t, w, watch.Prefix("w/"))
			direct := cluster.Client(t)
			got.revision(t, mustPut(t, direct, "w/k", string(make([]byte, 4096))))
			mu.Lock()
			at := serving
			mu.Unlock()
			require.GreaterOrEqual(t, at, 0)
			var others []string
			for i, s := range cluster.Members {
				if i != at {
					others = append(others, s.Endpoint())
				}
			}
			began := time.Now()
			kill(cluster.Members[at], proxies[at])
			elsewhere := etcdtest.NewClient(t, others)
			var last int64
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			for last == 0 { // a frozen leader must be replaced first
				short, stop := context.WithTimeout(ctx, time.Second)
				if resp, err := elsewhere.Put(short, "w/k", "after"); err == nil {
					last = resp.Header.Revision
				}
				stop()
				require.NoError(t, ctx.Err())
			}
			if err := sub.Refresh(ctx); err != nil { // otherwise it continued with the next stream
				require.ErrorIs(t, err, watch.ErrUnavailable)
			}
			got.revision(t, last)
			t.Logf("first event after %v", time.Since(began).Round(time.Millisecond))
			var want []int64
			for _, e := range got.events() {
				want = append(want, e.ModRevision)
			}
			assert.IsIncreasing(t, want)
		})
	}
}

func TestWatcher_KeepsTransactionsWholeWhileConnectionsBreak(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	direct := srv.Client(t)
	w := newWatcher(t, etcdtest.NewClient(t, proxy.Endpoints()))
	_, got := subscribe(t, w, watch.Prefix("w/"))
	rng := rand.New(rand.NewPCG(8, 8))
	var last int64
	for i := range size(40, 200) {
		ops := make([]clientv3.Op, 0, 100)
		for k := range 100 {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("w/%03d", k), strconv.Itoa(i)))
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			// somewhere in the middle of it
			time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
			proxy.Cut()
		})
		resp, err := direct.Txn(t.Context()).Then(ops...).Commit()
		require.NoError(t, err)
		last = resp.Header.Revision
		wg.Wait()
	}
	got.revision(t, last)
	for _, b := range got.all() {
		require.Len(t, b.Events, 100)
	}
	assert.Len(t, got.all(), size(40, 200))
}
