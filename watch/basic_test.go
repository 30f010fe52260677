package watch_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

var _ watch.Checkpoint = kv.Checkpoint{}

func newWatcher(tb testing.TB, cli *clientv3.Client, o ...watch.WatcherOption) *watch.Watcher {
	w := watch.New(cli, o...)
	tb.Cleanup(func() { assert.NoError(tb, w.Close()) })
	return w
}

func TestEventsComeInOrderWithEverythingThatEtcdSays(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli, watch.WithNamespace(dir))
	_, got := subscribe(t, w, watch.Prefix("a/"), watch.WithPrevValue())

	lease, err := cli.Grant(t.Context(), 60)
	require.NoError(t, err)
	created, err := cli.Put(t.Context(), dir+"a/k", "one", clientv3.WithLease(lease.ID))
	require.NoError(t, err)
	mustPut(t, cli, dir+"b/k", "elsewhere")
	changed := mustPut(t, cli, dir+"a/k", "two")
	deleted := mustDelete(t, cli, dir+"a/k")
	got.revision(t, deleted)

	rev := created.Header.Revision
	assert.Equal(t, []watch.Batch{
		{Revision: rev, Events: []watch.Event{{Key: "a/k", Value: []byte("one"), ModRevision: rev, CreateRevision: rev, Version: 1, Lease: lease.ID}}},
		{Revision: changed, Events: []watch.Event{{Key: "a/k", Value: []byte("two"), PrevValue: []byte("one"), ModRevision: changed, CreateRevision: rev, Version: 2}}},
		{Revision: deleted, Events: []watch.Event{{Type: watch.Delete, Key: "a/k", PrevValue: []byte("two"), ModRevision: deleted}}},
	}, got.all())
}

func TestATransactionIsOneBatch(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli)
	_, got := subscribe(t, w, watch.Prefix(dir))
	ops := make([]clientv3.Op, 0, 100)
	for i := range 100 {
		ops = append(ops, clientv3.OpPut(fmt.Sprintf("%s%03d", dir, i), "v"))
	}
	resp, err := cli.Txn(t.Context()).Then(ops...).Commit()
	require.NoError(t, err)
	got.revision(t, resp.Header.Revision)
	require.Len(t, got.all(), 1)
	assert.Len(t, got.all()[0].Events, 100)
}

func TestAStateWatchBeginsWithTheStateAndGoesOn(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli, watch.WithNamespace(dir))
	mustPut(t, cli, dir+"k/b", "1")
	mustPut(t, cli, dir+"k/a", "2")
	mustPut(t, cli, dir+"other", "3")
	_, got := subscribe(t, w, watch.Prefix("k/"), watch.WithSnapshot())
	require.Len(t, got.all(), 1)
	snapshot := got.all()[0]
	assert.Equal(t, watch.Snapshot, snapshot.Kind)
	assert.False(t, snapshot.More)
	assert.Equal(t, []string{"k/a", "k/b"}, keysOf(snapshot))
	rev := mustDelete(t, cli, dir+"k/a")
	got.revision(t, rev)
	last := got.all()[len(got.all())-1]
	assert.Equal(t, watch.Batch{Kind: watch.Live, Revision: rev, Events: []watch.Event{{Type: watch.Delete, Key: "k/a", ModRevision: rev}}}, last)
}

func TestTheSnapshotOfNothingIsAnEmptyBatch(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	b := first(t, newWatcher(t, cli).Watch(t.Context(), watch.Prefix(dir), watch.WithSnapshot()))
	assert.Equal(t, watch.Snapshot, b.Kind)
	assert.Empty(t, b.Events)
	assert.False(t, b.More)
	assert.Positive(t, b.Revision)
}

func TestSelectorsSelectWhatTheySay(t *testing.T) { //nolint:tparallel // the parts write the same keys
	t.Parallel()
	cli, dir := shared(t)
	for _, k := range []string{"a", "a/1", "a/2", "ab", "b/1", ".etcdkit/op/1", "\xff\xff"} {
		mustPut(t, cli, dir+"ns/"+k, "v")
	}
	mustPut(t, cli, dir+"ns", "outside")
	mustPut(t, cli, dir+"ns0", "outside")
	w := newWatcher(t, cli).Namespace(dir).Namespace("ns")
	for name, c := range map[string]struct { //nolint:paralleltest // the parts write the same keys
		sel  watch.Selector
		want []string
	}{
		"a key":                          {watch.Key("a"), []string{"a"}},
		"a prefix":                       {watch.Prefix("a/"), []string{"a/1", "a/2"}},
		"everything but the hidden":      {watch.Prefix(""), []string{"a", "a/1", "a/2", "ab", "b/1", "\xff\xff"}},
		"the hidden when named":          {watch.Prefix(".etcdkit/"), []string{".etcdkit/op/1"}},
		"a range":                        {watch.Range("a/2", "b"), []string{"a/2", "ab"}},
		"a range to the namespace's end": {watch.Range("b", ""), []string{"b/1", "\xff\xff"}},
		"a range from the beginning":     {watch.Range("", "a/2"), []string{"a", "a/1"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, got := subscribe(t, w, c.sel, watch.WithSnapshot())
			require.Len(t, got.all(), 1)
			assert.ElementsMatch(t, c.want, keysOf(got.all()[0]))

			// Live changes are selected the same way.
			var last int64
			for _, k := range []string{"ns/a", "ns/a/1", "ns/a/2", "ns/ab", "ns/b/1", "ns/.etcdkit/op/1", "ns/\xff\xff", "ns", "ns0"} {
				last = mustPut(t, cli, dir+k, "w")
			}
			sub, end := subscribe(t, w, c.sel)
			require.NoError(t, sub.WaitRevision(t.Context(), last))
			assert.Empty(t, end.events())
			got.until(t, "the changes", func(b []watch.Batch) bool { return len(b) >= 1+len(c.want) })
			assert.ElementsMatch(t, c.want, func() (out []string) {
				for _, b := range got.all()[1:] {
					out = append(out, keysOf(b)...)
				}
				return out
			}())
		})
	}
}

func TestFiltersLeaveOutTheOtherKind(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli, watch.WithNamespace(dir))
	mustPut(t, cli, dir+"k", "0")
	_, puts := subscribe(t, w, watch.Prefix(""), watch.WithPutsOnly())
	_, deletes := subscribe(t, w, watch.Prefix(""), watch.WithDeletesOnly())
	_, state := subscribe(t, w, watch.Prefix(""), watch.WithPutsOnly(), watch.WithSnapshot())
	for i := range 3 {
		mustPut(t, cli, dir+"k", strconv.Itoa(i))
		mustDelete(t, cli, dir+"k")
	}
	last := mustPut(t, cli, dir+"k", "last")
	puts.revision(t, last)
	state.revision(t, last)
	deletes.until(t, "three deletes", func(b []watch.Batch) bool { return len(b) == 3 })
	assert.Len(t, puts.events(), 4)
	assert.Len(t, state.events(), 5)
	for _, e := range append(puts.events(), state.events()...) {
		assert.Equal(t, watch.Put, e.Type)
	}
	for _, e := range deletes.events() {
		assert.Equal(t, watch.Delete, e.Type)
	}
}

func TestAWatchGoesOnStrictlyAfterARevision(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli)
	revs := make([]int64, 5)
	for i := range revs {
		revs[i] = mustPut(t, cli, dir+"k", strconv.Itoa(i))
	}
	var got []int64
	for b, err := range w.Watch(t.Context(), watch.Prefix(dir), watch.WithAfter(revs[1])) {
		require.NoError(t, err)
		got = append(got, b.Revision)
		if b.Revision == revs[4] {
			break
		}
	}
	assert.Equal(t, revs[2:], got)
}

func TestARevisionAheadOfTheClusterIsAnotherHistory(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli)
	for name, opts := range map[string][]watch.Option{
		"events": {watch.WithAfter(1 << 40)},
		"state":  {watch.WithAfter(1 << 40), watch.WithSnapshot()},
	} {
		for b, err := range w.Watch(t.Context(), watch.Prefix(dir), opts...) {
			require.ErrorIs(t, err, watch.ErrHistoryRewritten, name)
			require.Zero(t, b)
			require.ErrorContains(t, err, fmt.Sprintf("watch: watch %q: ", dir+"*"))
		}
	}
}

func TestProgressCarriesTheRevisionOverAQuietPrefix(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli)
	_, got := subscribe(t, w, watch.Prefix(dir+"quiet/"), watch.WithProgress(100*time.Millisecond))
	require.NotEmpty(t, got.all(), "a watch with progress begins with where it begins")
	assert.Equal(t, watch.Progress, got.all()[0].Kind)
	rev := mustPut(t, cli, dir+"busy", "v")
	got.revision(t, rev)
	for _, b := range got.all() {
		assert.Equal(t, watch.Progress, b.Kind)
		assert.Empty(t, b.Events)
	}
}

func TestWaitRevisionWaitsForTheHandler(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli)
	sub, got := subscribe(t, w, watch.Prefix(dir+"a/"), watch.WithSnapshot())
	for range 20 {
		rev := mustPut(t, cli, dir+"a/k", "v")
		require.NoError(t, sub.WaitRevision(t.Context(), rev))
		events := got.events()
		assert.Equal(t, rev, events[len(events)-1].ModRevision)
		require.NoError(t, sub.WaitRevision(t.Context(), mustPut(t, cli, dir+"b", "v")), "what happens elsewhere is waited for too")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, sub.WaitRevision(ctx, 1<<40), context.DeadlineExceeded)
	go sub.Close()
	require.ErrorIs(t, sub.WaitRevision(t.Context(), 1<<40), watch.ErrClosed)
}

func TestSubscriptionsEndWithWhatEndsThem(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		f    func() error
		want func(t *testing.T, err error)
	}{
		"an error of the handler": {func() error { return boom }, func(t *testing.T, err error) { require.ErrorIs(t, err, boom) }},
		"a panic of the handler": {func() error { panic("at the disco") }, func(t *testing.T, err error) {
			var p *watch.PanicError
			require.ErrorAs(t, err, &p)
			assert.Equal(t, "at the disco", p.Value)
			assert.NotEmpty(t, p.Stack)
		}},
		"a panic with an error": {func() error { panic(boom) }, func(t *testing.T, err error) { require.ErrorIs(t, err, boom) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWatcher(t, cli)
			sub, err := w.Subscribe(watch.Prefix(dir), func(context.Context, watch.Batch) error { return c.f() }, watch.WithSnapshot())
			require.NoError(t, err)
			_, other := subscribe(t, w, watch.Prefix(dir))
			c.want(t, ended(t, sub))
			rev := mustPut(t, cli, dir+"k", "v")
			other.revision(t, rev) // does not mind
			require.NoError(t, sub.Close())
			c.want(t, sub.Err())
		})
	}
}

func TestCloseEndsEverythingAndSaysSo(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := watch.New(cli)
	sub, _ := subscribe(t, w, watch.Prefix(dir))
	own, _ := subscribe(t, w, watch.Prefix(dir))
	require.NoError(t, own.Close())
	require.NoError(t, own.Err(), "whoever closes knows why it ended")
	assert.Equal(t, 1, w.Active())

	ended := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		for b, err := range w.Watch(t.Context(), watch.Prefix(dir), watch.WithSnapshot()) {
			if b.Kind == watch.Snapshot && err == nil {
				close(begun)
			}
			if err != nil {
				ended <- err
			}
		}
	}()
	<-begun
	require.NoError(t, w.Close())
	require.NoError(t, w.Close())
	require.ErrorIs(t, <-ended, watch.ErrClosed)
	require.ErrorIs(t, sub.Err(), watch.ErrClosed)
	_, err := w.Subscribe(watch.Prefix(dir), func(context.Context, watch.Batch) error { return nil })
	require.ErrorIs(t, err, watch.ErrClosed)
	for _, err := range w.Watch(t.Context(), watch.Prefix(dir)) {
		require.ErrorIs(t, err, watch.ErrClosed)
	}
	assert.Zero(t, w.Active())
	_, err = cli.Get(t.Context(), "k")
	require.NoError(t, err, "the client is not the watcher's to close")
}

func TestAClosedClientClosesItsWatches(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli)
	sub, _ := subscribe(t, w, watch.Prefix(dir))
	require.NoError(t, cli.Close())
	require.ErrorIs(t, ended(t, sub), watch.ErrClosed)
}

func TestConsumeGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli)
	cp := kv.NewCheckpoint(kv.New(cli), dir+"checkpoint")
	stop := errors.New("enough")
	var seen []string
	consume := func(ctx context.Context, n int) error {
		return w.Consume(ctx, watch.Prefix(dir+"in/"), cp, func(_ context.Context, b watch.Batch) error {
			for _, e := range b.Events {
				if n == 0 {
					return stop
				}
				n--
				seen = append(seen, string(e.Value))
			}
			return nil
		})
	}
	// The very first run saves where it begins, before anything has happened.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- consume(ctx, 0) }()
	require.Eventually(t, func() bool { rev, err := cp.Load(t.Context()); return err == nil && rev > 0 }, within, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)

	for i := range 6 {
		mustPut(t, cli, dir+"in/k", strconv.Itoa(i))
	}
	require.ErrorIs(t, consume(t.Context(), 2), stop)
	require.ErrorIs(t, consume(t.Context(), 3), stop)
	assert.Equal(t, []string{"0", "1", "2", "3", "4"}, seen)
}

func TestConsumePassesOnWhatTheCheckpointSays(t *testing.T) {
	t.Parallel()
	w := newWatcher(t, newWorld(1).client(t))
	boom := errors.New("boom")
	err := w.Consume(t.Context(), watch.Key("k"), &memory{err: boom}, func(context.Context, watch.Batch) error { return nil })
	require.ErrorIs(t, err, boom)
	assert.ErrorContains(t, err, `watch: consume "k": load the checkpoint: boom`)
}

func TestTheWordsForKindsTypesAndStates(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "put delete EventType(7)", fmt.Sprint(watch.Put, watch.Delete, watch.EventType(7)))
	assert.Equal(t, "live snapshot resync progress Kind(9)", fmt.Sprint(watch.Live, watch.Snapshot, watch.Resync, watch.Progress, watch.Kind(9)))
	assert.Equal(t, "syncing live stale State(4)", fmt.Sprint(watch.StateSyncing, watch.StateLive, watch.StateStale, watch.State(4)))
	assert.Equal(t, "k users/* [a, b) ", fmt.Sprint(watch.Key("k"), " ", watch.Prefix("users/"), " ", watch.Range("a", "b"), " ", watch.Selector{}))
	err := &watch.CompactedError{After: 3, Oldest: 9}
	require.ErrorIs(t, err, watch.ErrCompacted)
	assert.EqualError(t, err, "history compacted: the changes after revision 3 and before 9 are gone")
}
