package decorate_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// What a program sends in an outage is bounded by the calls that it makes, whatever parts of the
// library make them.
func TestBudget_IsSharedByAllUsersOfAClient(t *testing.T) {
	t.Parallel()
	f := etcdtest.StartFakeKV(t, func(int) error { return rpctypes.ErrGRPCTimeout })
	cli := f.Client(t, hardened(t))
	install(cli, false)
	one, other := etcdtest.Must(kv.New(cli, kv.WithRetry(kv.RetryPolicy(quick())))), etcdtest.Must(kv.New(cli, kv.WithRetry(kv.RetryPolicy(quick()))))
	const calls = 500
	for range calls {
		_, err := one.Get(t.Context(), "k")
		require.Error(t, err)
	}
	require.Positive(t, one.Stats().Retries)
	const few = 5 // which save up less than one retry
	before := f.Calls()
	for range few {
		_, err := other.Get(t.Context(), "k")
		require.Error(t, err)
	}
	assert.LessOrEqual(t, f.Calls()-before, few+1, "nothing is left for the other, but what it may have saved up itself")

	alone := etcdtest.Must(kv.New(f.Client(t, hardened(t)), kv.WithRetry(kv.RetryPolicy(quick()))))
	before = f.Calls()
	_, err := alone.Get(t.Context(), "k")
	require.Error(t, err)
	assert.Equal(t, 3, f.Calls()-before, "another client has a budget of its own")
}
