package watch_test

import (
	"context"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/watch"
)

// within bounds the waits of a test. Only a failure takes that long.
const within = 30 * time.Second

// shared returns a client of the shared server and a prefix for the test.
func shared(tb testing.TB) (*clientv3.Client, string) {
	tb.Helper()
	return etcdtest.Client(tb), etcdtest.Prefix(tb)
}

func mustPut(tb testing.TB, cli *clientv3.Client, key, value string) int64 {
	tb.Helper()
	resp, err := cli.Put(tb.Context(), key, value)
	require.NoError(tb, err)
	return resp.Header.Revision
}

func mustDelete(tb testing.TB, cli *clientv3.Client, key string) int64 {
	tb.Helper()
	resp, err := cli.Delete(tb.Context(), key)
	require.NoError(tb, err)
	return resp.Header.Revision
}

func keysOf(b watch.Batch) []string {
	out := make([]string, 0, len(b.Events))
	for _, e := range b.Events {
		out = append(out, e.Key)
	}
	return out
}

// first returns the first batch of a watch.
func first(tb testing.TB, seq iter.Seq2[watch.Batch, error]) watch.Batch {
	tb.Helper()
	for b, err := range seq {
		require.NoError(tb, err)
		return b
	}
	require.Fail(tb, "the watch ended without an error")
	return watch.Batch{}
}

// recorder collects batches, and wakes a goroutine that waits for them.
type recorder struct {
	mu      sync.Mutex
	batches []watch.Batch
	more    chan struct{}
}

func newRecorder() *recorder { return &recorder{more: make(chan struct{}, 1)} }

func (r *recorder) handle(_ context.Context, b watch.Batch) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches = append(r.batches, b)
	select {
	case r.more <- struct{}{}:
	default:
	}
	return nil
}

func (r *recorder) all() []watch.Batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clip(r.batches)
}

// events returns all events so far.
func (r *recorder) events() []watch.Event {
	var out []watch.Event
	for _, b := range r.all() {
		out = append(out, b.Events...)
	}
	return out
}

// until waits until the collected batches satisfy f.
func (r *recorder) until(tb testing.TB, what string, f func([]watch.Batch) bool) {
	tb.Helper()
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	for !f(r.all()) {
		select {
		case <-r.more:
		case <-timeout.C:
			require.Fail(tb, "waited in vain for "+what, "%d batches so far", len(r.all()))
		}
	}
}

// revision waits for a batch of a revision, or of a later one.
func (r *recorder) revision(tb testing.TB, rev int64) {
	tb.Helper()
	r.until(tb, "a revision", func(all []watch.Batch) bool {
		return len(all) > 0 && !all[len(all)-1].More && all[len(all)-1].Revision >= rev
	})
}

// subscribe returns a live subscription and its recorder.
func subscribe(tb testing.TB, w *watch.Watcher, s watch.Selector, o ...watch.Option) (*watch.Subscription, *recorder) {
	tb.Helper()
	r := newRecorder()
	sub, err := w.Subscribe(s, r.handle, o...)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = sub.Close() })
	ready(tb, sub)
	return sub, r
}

func ready(tb testing.TB, sub *watch.Subscription) {
	tb.Helper()
	select {
	case <-sub.Ready():
	case <-sub.Done():
		require.NoError(tb, sub.Err())
	case <-time.NewTimer(within).C:
		require.Fail(tb, "the subscription does not become live", "%+v", sub.Status())
	}
}

// ended waits for the end of a subscription and returns its error.
func ended(tb testing.TB, sub *watch.Subscription) error {
	tb.Helper()
	select {
	case <-sub.Done():
		return sub.Err()
	case <-time.NewTimer(within).C:
		require.Fail(tb, "the subscription does not end", "%+v", sub.Status())
		return nil
	}
}

// fakeCheckpoint is a checkpoint in memory.
type fakeCheckpoint struct {
	mu    sync.Mutex
	rev   int64
	saves []int64
	err   error
}

func (m *fakeCheckpoint) Load(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rev, m.err
}

func (m *fakeCheckpoint) Save(_ context.Context, rev int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rev = rev
	m.saves = append(m.saves, rev)
	return m.err
}
