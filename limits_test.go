package etcdkit_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestWithLimits_AllowsLargerRequests(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.WithFlags("--max-request-bytes=8388608", "--max-txn-ops=4"))
	usual := s.Open(t)
	value := make([]byte, 6<<20)
	_, err := usual.KV().Put(t.Context(), "large", value)
	require.ErrorIs(t, err, kv.ErrTooLarge)

	c := s.Open(t, etcdkit.WithLimits(kv.Limits{RequestBytes: 8 << 20, TxnOps: 4}))
	_, err = c.KV().Put(t.Context(), "large", value)
	require.NoError(t, err)
	_, err = c.KV().Put(t.Context(), "larger", make([]byte, 8<<20))
	require.ErrorIs(t, err, kv.ErrTooLarge)
	_, err = c.KV().Batch(t.Context(), kv.OpPut("a", nil), kv.OpPut("b", nil), kv.OpPut("c", nil), kv.OpPut("d", nil), kv.OpPut("e", nil))
	require.NoError(t, err, "five operations are two transactions")
}

func TestWithLimits_RejectsNegativeLimit(t *testing.T) {
	t.Parallel()
	_, err := etcdkit.OpenLazy(etcdkit.Config{Endpoints: []string{"localhost:1"}}, etcdkit.WithLimits(kv.Limits{TxnOps: -1}))
	require.ErrorIs(t, err, etcdkit.ErrInvalid)
	assert.ErrorContains(t, err, "WithLimits: a negative limit")
}
