package kv_test

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/etcdkit/etcdkit/kv"
)

type ctxKey struct{}

func TestCoalesce_SingleCallIsSentUnchanged(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		ctx := context.WithValue(t.Context(), ctxKey{}, "mine")
		for i := range 10 {
			_, err := k.Put(ctx, "a", strconv.Itoa(i))
			require.NoError(t, err)
			r, err := k.Get(ctx, "a")
			require.NoError(t, err)
			assert.Equal(t, strconv.Itoa(i), string(r.Kvs[0].Value))
			assert.Equal(t, "mine", s.lastCtx().Value(ctxKey{}))
		}
		d, err := k.Delete(ctx, "a")
		require.NoError(t, err)
		assert.EqualValues(t, 1, d.Deleted)
		for _, size := range s.asked() {
			assert.Zero(t, size, "a transaction")
		}
	})
}

func TestCoalesce_WaitingCallsShareTransaction(t *testing.T) {
	t.Parallel()
	for name, op := range map[string]func(string) clientv3.Op{"gets": getOf, "puts": putOf, "deletes": delOf} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
				for i := range 100 {
					s.kvs["k"+strconv.Itoa(i)] = &mvccpb.KeyValue{Key: []byte("k" + strconv.Itoa(i)), Value: []byte(strconv.Itoa(i)), Version: 1}
				}
				clearUp := blockDirectCalls(t, s, k, op)
				var calls []<-chan callResult
				for i := range 100 {
					calls = append(calls, asyncDo(t.Context(), k, op("k"+strconv.Itoa(i))))
				}
				assert.Empty(t, s.asked(), "they wait")
				clearUp()
				assert.Equal(t, []int{100}, s.asked())
				for i, c := range calls {
					r := <-c
					require.NoError(t, r.err)
					switch name {
					case "gets":
						assert.Equal(t, strconv.Itoa(i), string(r.Get().Kvs[0].Value), "somebody else's result")
					case "puts":
						assert.Positive(t, r.Put().Header.Revision)
						value, _ := s.value("k" + strconv.Itoa(i))
						assert.Equal(t, "value of k"+strconv.Itoa(i), value)
					case "deletes":
						assert.EqualValues(t, 1, r.Del().Deleted)
					}
				}
			})
		})
	}
}

func TestCoalesce_KindsDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		clearUp := blockDirectCalls(t, s, k, putOf)
		waits := asyncDo(t.Context(), k, putOf("a"))
		for _, op := range []clientv3.Op{getOf("a"), clientv3.OpGet("a", clientv3.WithSerializable()), delOf("a")} {
			r := <-asyncDo(t.Context(), k, op)
			require.NoError(t, r.err)
		}
		assert.Equal(t, []int{0, 0, 0}, s.asked())
		clearUp()
		require.NoError(t, (<-waits).err)
	})
}

func TestCoalesce_SeparatesSerializableGets(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		stale := func(key string) clientv3.Op { return clientv3.OpGet(key, clientv3.WithSerializable()) }
		clear1, clear2 := blockDirectCalls(t, s, k, getOf), blockDirectCalls(t, s, k, stale)
		var calls []<-chan callResult
		for i := range 10 {
			calls = append(calls, asyncDo(t.Context(), k, getOf("k"+strconv.Itoa(i))), asyncDo(t.Context(), k, stale("k"+strconv.Itoa(i))))
		}
		clear1()
		s.cleared = make(chan struct{})
		clear2()
		assert.Equal(t, []int{10, 10}, s.asked())
		for _, c := range calls {
			require.NoError(t, (<-c).err)
		}
	})
}

func TestCoalesce_UnshareableCallsDoNotWait(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("v", kv.MaxSharedOpBytes)
	rows := map[string]clientv3.Op{
		"a prefix":            clientv3.OpGet("k", clientv3.WithPrefix()),
		"a range":             clientv3.OpGet("k", clientv3.WithRange("l")),
		"from a key on":       clientv3.OpGet("k", clientv3.WithFromKey()),
		"a revision":          clientv3.OpGet("k", clientv3.WithRev(1)),
		"a limit":             clientv3.OpGet("k", clientv3.WithLimit(1)),
		"an order":            clientv3.OpGet("k", clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend)),
		"a bound on revision": clientv3.OpGet("k", clientv3.WithMinModRev(1)),
		"an empty key":        clientv3.OpGet(""),
		"a range of deletes":  clientv3.OpDelete("k", clientv3.WithPrefix()),
		"a long value":        clientv3.OpPut("k", big),
		"a transaction":       clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("k")}, nil),
	}
	for name, op := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
				for _, other := range []func(string) clientv3.Op{getOf, putOf, delOf} {
					for i := range kv.MaxDirectCalls {
						asyncDo(t.Context(), k, other("jam"+strconv.Itoa(i)))
					}
				}
				r := <-asyncDo(t.Context(), k, op)
				require.NoError(t, r.err)
				assert.Len(t, s.asked(), 1)
				close(s.cleared)
			})
		})
	}
}

func TestCoalesce_CallWithMetadataDoesNotWait(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		clearUp := blockDirectCalls(t, s, k, getOf)
		for _, ctx := range []context.Context{clientv3.WithRequireLeader(t.Context()), metadata.AppendToOutgoingContext(t.Context(), "who", "me")} {
			r := <-asyncDo(ctx, k, getOf("a"))
			require.NoError(t, r.err)
			want, _ := metadata.FromOutgoingContext(ctx)
			got, _ := metadata.FromOutgoingContext(s.lastCtx())
			assert.Equal(t, want, got)
		}
		waits := asyncDo(metadata.NewOutgoingContext(t.Context(), nil), k, getOf("a"))
		assert.Equal(t, []int{0, 0}, s.asked(), "empty metadata is none")
		clearUp()
		require.NoError(t, (<-waits).err)
	})
}

func TestCoalesce_BoundsOperationsPerTransaction(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		clearUp := blockDirectCalls(t, s, k, putOf)
		var calls []<-chan callResult
		for i := range 2*kv.MaxSharedOps + 10 {
			calls = append(calls, asyncDo(t.Context(), k, putOf("k"+strconv.Itoa(i))))
		}
		clearUp()
		assert.Equal(t, []int{kv.MaxSharedOps, kv.MaxSharedOps, 10}, s.asked())
		for _, c := range calls {
			require.NoError(t, (<-c).err)
		}
	})
}

func TestCoalesce_BoundsBytesPerTransaction(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		clearUp := blockDirectCalls(t, s, k, putOf)
		var calls []<-chan callResult
		for i := range 24 {
			calls = append(calls, asyncDo(t.Context(), k, clientv3.OpPut("k"+strconv.Itoa(i), strings.Repeat("v", 60<<10))))
		}
		clearUp()
		assert.Equal(t, []int{8, 8, 8}, s.asked())
		for _, m := range s.asks {
			assert.LessOrEqual(t, proto.Size(m), kv.MaxSharedBytes)
		}
		for _, c := range calls {
			require.NoError(t, (<-c).err)
		}
	})
}

// If a server refuses a transaction because of its number of operations, later ones are smaller.
func TestCoalesce_AdaptsToLowerServerLimit(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		s.before = func(_ context.Context, m proto.Message) error {
			if sizeOf(m) > 40 {
				return rpctypes.ErrGRPCTooManyOps
			}
			return nil
		}
		clearUp := blockDirectCalls(t, s, k, putOf)
		var calls []<-chan callResult
		for i := range 4 * kv.MaxSharedOps {
			calls = append(calls, asyncDo(t.Context(), k, putOf("k"+strconv.Itoa(i))))
		}
		clearUp()
		refused, granted := 0, 0
		for _, size := range s.asked() {
			if size > 40 {
				refused++
			} else if size > 0 {
				granted++
			}
		}
		assert.Equal(t, 2, refused, "128 and 64 of them")
		assert.Equal(t, (4*kv.MaxSharedOps-128-64)/32, granted)
		for i, c := range calls {
			require.NoError(t, (<-c).err)
			_, version := s.value("k" + strconv.Itoa(i))
			assert.EqualValues(t, 1, version, "sent twice")
		}
	})
}

func TestCoalesce_SeparatesWritesOfOneKey(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		clearUp := blockDirectCalls(t, s, k, putOf)
		var calls []<-chan callResult
		for i := range 40 { // ten keys, four times each
			calls = append(calls, asyncDo(t.Context(), k, clientv3.OpPut("k"+strconv.Itoa(i%10), strconv.Itoa(i))))
		}
		clearUp()
		assert.Equal(t, []int{10, 10, 10, 10}, s.asked())
		for _, c := range calls {
			require.NoError(t, (<-c).err)
		}
		for i := range 10 {
			value, version := s.value("k" + strconv.Itoa(i))
			assert.EqualValues(t, 4, version)
			assert.Equal(t, strconv.Itoa(30+i), value, "in the order in which they came")
		}
	})
}

func TestCoalesce_EqualGetsShareOneOperation(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		s.kvs["k"] = &mvccpb.KeyValue{Key: []byte("k"), Value: []byte("v"), Version: 1}
		clearUp := blockDirectCalls(t, s, k, getOf)
		var calls []<-chan callResult
		for range 50 {
			calls = append(calls, asyncDo(t.Context(), k, getOf("k")), asyncDo(t.Context(), k, clientv3.OpGet("k", clientv3.WithCountOnly())))
		}
		clearUp()
		assert.Equal(t, []int{2}, s.asked())
		for _, c := range calls {
			r := <-c
			require.NoError(t, r.err)
			require.Equal(t, "v", string(r.Get().Kvs[0].Value), "somebody has changed it")
			require.EqualValues(t, 2, r.Get().Header.MemberId)
			r.Get().Kvs[0].Value[0] = 'x'
			r.Get().Kvs = nil
			r.Get().Header.MemberId = 0
		}
	})
}

// Two callers of Do may use the buffers of their keys and values again as soon as it has returned.
func TestCoalesce_CopiesBuffersOfCaller(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		clearUp := blockDirectCalls(t, s, k, putOf)
		hold := make(chan struct{})
		s.before = func(context.Context, proto.Message) error { <-hold; return nil }
		ctx, stop := context.WithCancel(t.Context())
		key, value := []byte("key"), []byte("value")
		op := clientv3.OpPut("", "")
		op.WithKeyBytes(key)
		op.WithValueBytes(value)
		gone := asyncDo(ctx, k, op)
		other := asyncDo(t.Context(), k, putOf("other"))
		clearUp()
		stop()
		require.ErrorIs(t, (<-gone).err, context.Canceled)
		copy(key, "xxx")
		copy(value, "xxxxx")
		close(hold)
		require.NoError(t, (<-other).err)
		got, _ := s.value("key")
		assert.Equal(t, "value", got)
	})
}

func sizeOf(m proto.Message) int {
	if m, ok := m.(interface{ GetSuccess() []*pb.RequestOp }); ok {
		return len(m.GetSuccess())
	}
	return 0
}
