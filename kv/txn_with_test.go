package kv_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestTxn_WithAppliesGuards(t *testing.T) {
	t.Parallel()
	s := newBench(t)
	errLost := errors.New("lost")
	held := clientv3.Compare(clientv3.CreateRevision(etcdtest.Prefix(t)+"held"), ">", 0)
	_, err := s.Txn(t.Context()).With(kv.WithGuard(kv.NewGuard(errLost, held))).Then(clientv3.OpPut("a", "1")).Commit()
	require.ErrorIs(t, err, errLost)
	require.ErrorIs(t, err, kv.ErrGuard)
	_, err = s.Txn(t.Context()).With(kv.WithOnce()).Then(clientv3.OpPut("a", "1")).Commit()
	require.ErrorIs(t, err, kv.ErrInvalid)
	_, err = s.Get(t.Context(), "a")
	require.ErrorIs(t, err, kv.ErrNotFound)
	_, err = s.Txn(t.Context()).With(nil).Then(clientv3.OpPut("a", "1")).Commit()
	require.NoError(t, err)
	_, err = (&kv.Txn{}).With(kv.WithOnce()).Then(clientv3.OpPut("a", "1")).Commit()
	assert.ErrorIs(t, err, kv.ErrInvalid)
}
