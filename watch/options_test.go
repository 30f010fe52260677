package watch_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/watch"
)

func TestString_OfKindsTypesStatesAndSelectors(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "put delete EventType(7)", fmt.Sprint(watch.Put, watch.Delete, watch.EventType(7)))
	assert.Equal(t, "live snapshot resync progress Kind(9)", fmt.Sprint(watch.Live, watch.Snapshot, watch.Resync, watch.Progress, watch.Kind(9)))
	assert.Equal(t, "syncing live stale State(4)", fmt.Sprint(watch.StateSyncing, watch.StateLive, watch.StateStale, watch.State(4)))
	assert.Equal(t, "k users/* [a, b) ", fmt.Sprint(watch.Key("k"), " ", watch.Prefix("users/"), " ", watch.Range("a", "b"), " ", watch.Selector{}))
	err := &watch.CompactedError{After: 3, Oldest: 9}
	require.ErrorIs(t, err, watch.ErrCompacted)
	assert.EqualError(t, err, "history compacted: changes after revision 3 and before 9 are no longer available")
}

func TestWatcher_RejectsInvalidArgumentsBeforeSending(t *testing.T) {
	t.Parallel()
	w := newFakeEtcd(1)
	watcher := newWatcher(t, w.client(t))
	nothing := func(context.Context, watch.Batch) error { return nil }
	for name, c := range map[string]struct {
		sel  watch.Selector
		opts []watch.Option
	}{
		"no selector":                        {watch.Selector{}, nil},
		"an empty key":                       {watch.Key(""), nil},
		"a prefix without a slash":           {watch.Prefix("a"), nil},
		"a range that is empty":              {watch.Range("b", "b"), nil},
		"a range from behind":                {watch.Range("b", "a"), nil},
		"a negative revision":                {watch.Key("k"), []watch.Option{watch.WithAfter(-1)}},
		"progress all the time":              {watch.Key("k"), []watch.Option{watch.WithProgress(0)}},
		"no buffer":                          {watch.Key("k"), []watch.Option{watch.WithBuffer(0)}},
		"neither puts nor deletes":           {watch.Key("k"), []watch.Option{watch.WithPutsOnly(), watch.WithDeletesOnly()}},
		"a state of deletes":                 {watch.Key("k"), []watch.Option{watch.WithSnapshot(), watch.WithDeletesOnly()}},
		"a nil option and one that is wrong": {watch.Key("k"), []watch.Option{nil, watch.WithBuffer(-1)}},
		"an option of New":                   {watch.Key("k"), []watch.Option{watch.WithNamespace("a")}},
	} {
		for b, err := range watcher.Watch(t.Context(), c.sel, c.opts...) {
			require.ErrorIs(t, err, watch.ErrInvalid, name)
			require.Zero(t, b)
		}
		_, err := watcher.Subscribe(c.sel, nothing, c.opts...)
		require.ErrorIs(t, err, watch.ErrInvalid, name)
		require.ErrorIs(t, watcher.Consume(t.Context(), c.sel, &fakeCheckpoint{}, nothing, c.opts...), watch.ErrInvalid, name)
	}
	_, err := watcher.Subscribe(watch.Key("k"), nil)
	require.ErrorIs(t, err, watch.ErrInvalid)
	require.ErrorIs(t, watcher.Consume(t.Context(), watch.Key("k"), nil, nothing), watch.ErrInvalid)
	require.ErrorIs(t, watcher.Consume(t.Context(), watch.Key("k"), &fakeCheckpoint{}, nothing, watch.WithAfter(1)), watch.ErrInvalid)
	require.ErrorContains(t, watcher.Consume(t.Context(), watch.Key("k"), &fakeCheckpoint{}, nothing, watch.WithAfter(-1), watch.WithBuffer(0)),
		"WithBuffer", "not all errors were reported")
	invalid := watcher.Namespace("//")
	for _, err := range invalid.Watch(t.Context(), watch.Key("k")) {
		require.ErrorIs(t, err, watch.ErrInvalid)
	}
	assert.Zero(t, invalid.Active())
	require.NoError(t, invalid.Close())
	assert.Zero(t, w.opened)
}

func TestNew_ReturnsAllErrors(t *testing.T) {
	t.Parallel()
	w := newFakeEtcd(1)
	for name, c := range map[string]struct {
		cli   *clientv3.Client
		opts  []watch.Option
		texts []string
	}{
		"no client":     {nil, nil, []string{"no client"}},
		"no connection": {clientv3.NewCtxClient(t.Context()), nil, []string{"no connection and no Watcher"}},
		"namespace":     {w.client(t), []watch.Option{watch.WithNamespace("a//b")}, []string{`"a//b"`}},
		"several": {
			nil,
			[]watch.Option{nil, watch.WithNamespace("a//b"), watch.WithSnapshot(), watch.WithBuffer(1)},
			[]string{"no client", `"a//b"`, "WithSnapshot is an option of a single watch", "WithBuffer is an option"},
		},
	} {
		watcher, err := watch.New(c.cli, c.opts...)
		require.ErrorIs(t, err, watch.ErrInvalid, name)
		require.Nil(t, watcher, name)
		for _, text := range c.texts {
			assert.ErrorContains(t, err, text, name)
		}
	}
	assert.Zero(t, w.opened)
}
