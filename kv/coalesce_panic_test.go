package kv_test

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcdkit/etcdkit/kv"
)

func TestCoalesce_PanicReachesOnlyItsCallers(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, _ clientv3.KV) {
		k := kv.Coalesce(clientv3.NewKVFromKVClient(fakeMismatchedKV{s, func() *pb.TxnResponse { panic("below") }}, nil))
		for _, op := range []func(string) clientv3.Op{getOf, putOf} {
			s.cleared = make(chan struct{})
			caught := fakeRecoveringKV{k}
			for _, r := range sharing(t, s, caught, op) {
				require.EqualError(t, r.err, "panic: below")
			}
			require.NoError(t, (<-asyncDo(t.Context(), k, op("a"))).err, "the next one is not concerned")
		}
		s.before = func(context.Context, proto.Message) error { panic("alone") }
		for range 2 * kv.MaxDirectCalls {
			require.EqualError(t, (<-asyncDo(t.Context(), fakeRecoveringKV{k}, getOf("a"))).err, "panic: alone")
		}
		s.before = nil
		require.NoError(t, (<-asyncDo(t.Context(), k, getOf("a"))).err, "no slot is lost")
	})
}

// fakeRecoveringKV makes errors of panics.
type fakeRecoveringKV struct{ clientv3.KV }

func (c fakeRecoveringKV) Do(ctx context.Context, op clientv3.Op) (r clientv3.OpResponse, err error) {
	defer func() {
		if what := recover(); what != nil {
			err = errors.New("panic: " + what.(string)) //nolint:forcetypeassert // it is the test's own
		}
	}()
	return c.KV.Do(ctx, op)
}

// A goroutine that a fake below ends (with t.FailNow, for one) must not leave callers behind.
func TestCoalesce_GoexitReleasesCallers(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, _ clientv3.KV) {
		k := kv.Coalesce(clientv3.NewKVFromKVClient(fakeMismatchedKV{s, func() *pb.TxnResponse { runtime.Goexit(); return nil }}, nil))
		for _, r := range sharing(t, s, k, putOf) {
			require.ErrorIs(t, r.err, kv.ErrUnknownOutcome)
		}
		require.NoError(t, (<-asyncDo(t.Context(), k, putOf("a"))).err)
	})
}
