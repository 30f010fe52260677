package watch_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

var _ watch.Checkpoint = kv.Checkpoint{}

func newWatcher(tb testing.TB, cli *clientv3.Client, o ...watch.Option) *watch.Watcher {
	w := etcdtest.Must(watch.New(cli, o...))
	tb.Cleanup(func() { assert.NoError(tb, w.Close()) })
	return w
}

func TestWatcher_DeliversEventsInOrderWithAllFields(t *testing.T) {
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

func TestWatcher_DeliversTransactionAsOneBatch(t *testing.T) {
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

func TestWatcher_SnapshotThenLiveChanges(t *testing.T) {
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

func TestWatcher_SnapshotOfEmptyRangeIsEmptyBatch(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	b := first(t, newWatcher(t, cli).Watch(t.Context(), watch.Prefix(dir), watch.WithSnapshot()))
	assert.Equal(t, watch.Snapshot, b.Kind)
	assert.Empty(t, b.Events)
	assert.False(t, b.More)
	assert.Positive(t, b.Revision)
}

func TestSelector_SelectsKeys(t *testing.T) { //nolint:tparallel // the parts write the same keys
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
			sub, end := subscribe(t, w, c.sel, watch.WithAfter(last))
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

func TestWatcher_WatchesPartialPrefix(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli, watch.WithNamespace(dir))
	mustPut(t, cli, dir+"users/41", "")
	mustPut(t, cli, dir+"users/5", "")
	_, got := subscribe(t, w, watch.Prefix("users/4"), watch.WithPartialPrefix(), watch.WithSnapshot())
	mustPut(t, cli, dir+"users/5", "")
	got.revision(t, mustPut(t, cli, dir+"users/42", ""))
	var keys []string
	for _, e := range got.events() {
		keys = append(keys, e.Key)
	}
	assert.Equal(t, []string{"users/41", "users/42"}, keys)
}

func TestWatcher_FiltersPutsOrDeletes(t *testing.T) {
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

func TestWatcher_WithAfterStartsStrictlyAfterRevision(t *testing.T) {
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

func TestWatcher_WithAfterAheadOfClusterIsErrHistoryRewritten(t *testing.T) {
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

func TestWatcher_ProgressAdvancesRevisionOfQuietPrefix(t *testing.T) {
	t.Parallel()
	cli, dir := shared(t)
	w := newWatcher(t, cli)
	_, got := subscribe(t, w, watch.Prefix(dir+"quiet/"), watch.WithProgress(100*time.Millisecond))
	require.NotEmpty(t, got.all(), "a watch with progress starts with a Progress batch")
	assert.Equal(t, watch.Progress, got.all()[0].Kind)
	rev := mustPut(t, cli, dir+"busy", "v")
	got.revision(t, rev)
	for _, b := range got.all() {
		assert.Equal(t, watch.Progress, b.Kind)
		assert.Empty(t, b.Events)
	}
}
