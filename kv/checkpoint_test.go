package kv_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/kv"
)

func TestCheckpoint_LoadReturnsLastRevision(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := kv.NewCheckpoint(b.Store, "progress/indexer")
	rev, err := c.Load(t.Context())
	require.NoError(t, err)
	assert.Zero(t, rev, "none was saved")
	for _, want := range []int64{0, 7, 7, 3, math.MaxInt64} {
		b.costs(t, rpc("KV/Put", 1), func() { require.NoError(t, c.Save(t.Context(), want)) })
		b.costs(t, rpc("KV/Range", 1), func() {
			got, err := c.Load(t.Context())
			require.NoError(t, err)
			assert.Equal(t, want, got)
		})
	}
	require.NoError(t, c.Save(t.Context(), 1234))
	assert.Equal(t, "1234", b.value(t, "progress/indexer"), "readable with etcdctl")
}

func TestCheckpoint_LoadRejectsInvalidText(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := kv.NewCheckpoint(b.Store, "k")
	for _, text := range []string{"", "x", "-1", "1.5", "99999999999999999999", "1 "} {
		b.put(t, "k", text)
		rev, err := c.Load(t.Context())
		require.ErrorIs(t, err, kv.ErrDecode, text)
		assert.Zero(t, rev, text)
	}
	b.refused(t, func() error { return c.Save(t.Context(), -1) }, kv.ErrInvalid)
}

func TestCheckpoint_GuardRejectsSaveOfFormerHolder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	g, lose := hold(t, b, errOwner)
	c := kv.NewCheckpoint(b.Store, "k", kv.WithGuard(g))
	require.NoError(t, c.Save(t.Context(), 1))
	lose()
	err := c.Save(t.Context(), 2)
	require.ErrorIs(t, err, kv.ErrGuard)
	require.ErrorIs(t, err, errOwner)
	rev, err := c.Load(t.Context())
	require.NoError(t, err)
	assert.EqualValues(t, 1, rev)
}
