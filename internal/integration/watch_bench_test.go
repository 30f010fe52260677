package integration_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/watch"
)

// watchTable compares the delivery of changes.
func watchTable() table {
	return table{
		id: "watch", title: "Watches",
		text: "*Mass delete*: from the deletion of N keys in one transaction to its last event; one operation is one event. *Replay*: N events of " +
			"transactions with 100 each, read from the history. *Delivery*: to one of N subscribers to a prefix, whom the peer gives a watch each, of 32 " +
			"changes put at once. The peer is client/v3.",
		columns:   standardColumns(),
		scenarios: []scenario{massDelete(60_000), massDelete(200_000), replay(50_000), delivery(1000)},
	}
}

// watchLimit is what events of large transactions and of the history may take, by the peer's time.
var watchLimit = limit{Metric: "time", Of: "ratio", Most: 1.5}

// subscribeFunc has the changes of a prefix delivered to f: those after a revision, or, if that is
// 0, those from the return of the call on.
type subscribeFunc func(prefix string, after int64, f func(events int, rev int64))

// subscriber subscribes through a client of the side.
func (m *meter) subscriber() subscribeFunc {
	m.Helper()
	if m.ours {
		w := m.open().Watcher()
		return func(prefix string, after int64, f func(events int, rev int64)) { subscribeOurs(m, w, prefix, after, f) }
	}
	cli := m.client()
	return func(prefix string, after int64, f func(events int, rev int64)) {
		subscribeTheirs(m, cli, prefix, after, func(events []*clientv3.Event) {
			f(len(events), events[len(events)-1].Kv.ModRevision)
		})
	}
}

func subscribeOurs(m *meter, w *watch.Watcher, prefix string, after int64, f func(events int, rev int64)) {
	m.Helper()
	var o []watch.Option
	if after > 0 {
		o = append(o, watch.WithAfter(after))
	}
	sub, err := w.Subscribe(watch.Prefix(prefix), func(_ context.Context, b watch.Batch) error {
		f(len(b.Events), b.Revision)
		return nil
	}, o...)
	require.NoError(m, err)
	m.Cleanup(func() { _ = sub.Close() })
	if after == 0 {
		select {
		case <-sub.Ready():
		case <-sub.Done():
			require.NoError(m, sub.Err())
		}
	}
}

func subscribeTheirs(m *meter, cli *clientv3.Client, prefix string, after int64, f func([]*clientv3.Event)) {
	m.Helper()
	ctx, stop := context.WithCancel(m.Context())
	o := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithCreatedNotify()}
	if after > 0 {
		o = append(o, clientv3.WithRev(after+1))
	}
	ch := cli.Watch(ctx, prefix, o...)
	created := <-ch
	require.NoError(m, created.Err())
	var wg sync.WaitGroup
	m.Cleanup(func() { stop(); wg.Wait() })
	wg.Go(func() {
		for resp := range ch {
			if len(resp.Events) > 0 {
				f(resp.Events)
			}
		}
	})
}

// massDelete is the deletion of n keys in one transaction.
func massDelete(n int) scenario {
	turn := func(m *meter) {
		keys := size(m, n/10, n/10, n)
		m = m.in(m.name, keys)
		admin := m.server().Client(m)
		dir := m.Name() + "/"
		putMany(m, admin, dir, keys)
		var got atomic.Int64
		all := make(chan struct{})
		m.subscriber()(dir, 0, func(events int, _ int64) {
			if got.Add(int64(events)) == int64(keys) {
				close(all)
			}
		})
		m.measure(func() int {
			_, _ = admin.Delete(m.Context(), dir, clientv3.WithPrefix()) // a slow server applies it after the error
			<-all
			return keys
		})
	}
	return scenario{name: "mass delete", n: n, ours: turn, theirs: turn, limits: []limit{watchLimit}}
}

// replay reads n events from history.
func replay(n int) scenario {
	turn := func(m *meter) {
		events := size(m, 5000, n, n)
		dir := m.Name() + "/"
		from, to := putMany(m, m.server().Client(m), dir, events)
		subscribe := m.subscriber()
		all := make(chan struct{})
		m.measure(func() int {
			subscribe(dir, from-1, func(_ int, rev int64) {
				if rev == to {
					close(all)
				}
			})
			<-all
			return events
		})
	}
	return scenario{name: "replay", n: n, ours: turn, theirs: turn, limits: []limit{watchLimit}}
}

// delivery tells n subscribers of changes.
func delivery(n int) scenario {
	turn := func(m *meter) {
		const changes = 32
		admin := m.server().Client(m)
		dir := m.Name() + "/"
		var got atomic.Int64
		all := make(chan struct{}, 1)
		subscribe := m.subscriber()
		for range n {
			subscribe(dir, 0, func(events int, _ int64) {
				if got.Add(int64(events)) == int64(n*changes) {
					got.Store(0)
					all <- struct{}{}
				}
			})
		}
		once := func() {
			parallel(m, changes, changes, func(i int) error {
				_, err := admin.Put(m.Context(), fmt.Sprint(dir, i), "value")
				return err
			})
			<-all
		}
		once()
		rounds := size(m, 2, 10, 40)
		m.measure(func() int {
			for range rounds {
				once()
			}
			return rounds * n * changes
		})
	}
	return scenario{name: "delivery", n: n, ours: turn, theirs: turn}
}
