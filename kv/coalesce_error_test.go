package kv_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// sharing makes calls k0 to k9 that share a transaction, and returns what came of them.
func sharing(t *testing.T, s *fakeKVServer, k clientv3.KV, op func(string) clientv3.Op) (out []callResult) {
	t.Helper()
	clearUp := blockDirectCalls(t, s, k, op)
	var calls []<-chan callResult
	for i := range 10 {
		calls = append(calls, asyncDo(t.Context(), k, op("k"+strconv.Itoa(i))))
	}
	clearUp()
	for _, c := range calls {
		out = append(out, <-c)
	}
	return out
}

// refusing refuses transactions with err, and k3 by itself.
func refusing(err error) func(context.Context, proto.Message) error {
	return func(_ context.Context, m proto.Message) error {
		one, ok := m.(interface{ GetKey() []byte })
		if !ok || string(one.GetKey()) == "k3" {
			return err
		}
		return nil
	}
}

func TestCoalesce_RejectionReachesOnlyItsCall(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"the lease is gone":          rpctypes.ErrGRPCLeaseNotFound,
		"a key is forbidden":         rpctypes.ErrGRPCPermissionDenied,
		"a key is not there":         rpctypes.ErrGRPCKeyNotFound,
		"a lease is given":           rpctypes.ErrGRPCLeaseProvided,
		"there are duplicates":       rpctypes.ErrGRPCDuplicateKey,
		"there are too many":         rpctypes.ErrGRPCTooManyOps,
		"it is too large":            rpctypes.ErrGRPCRequestTooLarge,
		"it is too large to be sent": status.Error(codes.ResourceExhausted, "trying to send message larger than max (3 vs. 2)"),
		"a learner was asked":        rpctypes.ErrGRPCNotSupportedForLearner,
		"a proxy forbids it":         status.Error(codes.PermissionDenied, "RBAC: access denied"),
	} {
		for kind, op := range map[string]func(string) clientv3.Op{"gets": getOf, "puts": putOf, "deletes": delOf} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
					s.before = refusing(err)
					for i, r := range sharing(t, s, k, op) {
						if i == 3 {
							assert.Equal(t, status.Code(err), codeOf(r.err))
						} else {
							assert.NoError(t, r.err)
						}
						if _, version := s.value("k" + strconv.Itoa(i)); kind == "puts" && i != 3 {
							assert.EqualValues(t, 1, version)
						}
					}
					assert.Len(t, s.asked(), 11)
				})
			})
		}
	}
}

func codeOf(err error) codes.Code {
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return e.Code()
	}
	return status.Code(err)
}

// A write that may have been applied must not be sent again, nor be reported as anything but
// doubtful.
func TestCoalesce_LostResponseMakesAllWritesUnknown(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"the connection ended":   status.Error(codes.Unavailable, "error reading from server: EOF"),
		"the proposal timed out": rpctypes.ErrGRPCTimeout,
		"a proxy said Canceled":  status.Error(codes.Canceled, "context canceled"),
		"there is no space":      rpctypes.ErrGRPCNoSpace,
		"the leader changed":     rpctypes.ErrGRPCLeaderChanged,
		"the answer is too long": status.Error(codes.ResourceExhausted, "grpc: received message larger than max (3 vs. 2)"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
				s.after = func(m proto.Message) error {
					if sizeOf(m) > 0 {
						return err
					}
					return nil
				}
				for i, r := range sharing(t, s, k, putOf) {
					assert.Equal(t, status.Code(err), codeOf(r.err))
					assert.False(t, errs.NotApplied(r.err), "it was applied")
					_, version := s.value("k" + strconv.Itoa(i))
					assert.EqualValues(t, 1, version)
				}
				assert.Equal(t, []int{10}, s.asked())
			})
		})
	}
}

// Client/v3 sends a get again where it does not a transaction.
func TestCoalesce_GetsSurviveFailedTransaction(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"the connection ended":   status.Error(codes.Unavailable, "error reading from server: EOF"),
		"there is no leader":     rpctypes.ErrGRPCNoLeader,
		"the answer is too long": status.Error(codes.ResourceExhausted, "grpc: received message larger than max (3 vs. 2)"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
				s.after = func(m proto.Message) error {
					if sizeOf(m) > 0 {
						return err
					}
					return nil
				}
				for _, r := range sharing(t, s, k, getOf) {
					assert.NoError(t, r.err)
				}
				assert.Len(t, s.asked(), 11)
			})
		})
	}
}

// A server that asks to be left alone is not sent ten requests instead.
func TestCoalesce_OverloadedServerGetsNoSeparateGets(t *testing.T) {
	t.Parallel()
	for name, op := range map[string]func(string) clientv3.Op{"gets": getOf, "puts": putOf} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
				s.before = refusing(rpctypes.ErrGRPCRequestTooManyRequests)
				for _, r := range sharing(t, s, k, op) {
					assert.Equal(t, codes.ResourceExhausted, codeOf(r.err))
				}
				assert.Equal(t, []int{10}, s.asked())
			})
		})
	}
}

// An answer that fits the question in nothing is no result; whether a write was applied is open.
func TestCoalesce_RejectsMismatchedResponse(t *testing.T) {
	t.Parallel()
	got := &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{}}
	for name, answer := range map[string]*pb.TxnResponse{
		"none":         {Succeeded: true},
		"one too few":  {Succeeded: true, Responses: []*pb.ResponseOp{{}, {}, {}, {}, {}, {}, {}, {}, {}}},
		"another kind": {Succeeded: true, Responses: []*pb.ResponseOp{got, got, got, got, got, got, got, got, got, got}},
		"empty ones":   {Succeeded: true, Responses: []*pb.ResponseOp{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}}},
		"a refusal":    {Responses: []*pb.ResponseOp{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, s *fakeKVServer, _ clientv3.KV) {
				k := kv.Coalesce(clientv3.NewKVFromKVClient(fakeMismatchedKV{s, func() *pb.TxnResponse { return answer }}, nil))
				for _, r := range sharing(t, s, k, putOf) {
					require.ErrorIs(t, r.err, kv.ErrUnknownOutcome)
				}
				s.cleared = make(chan struct{})
				for _, r := range sharing(t, s, k, getOf) {
					require.NoError(t, r.err, "it can be read by itself")
				}
			})
		})
	}
}

// fakeMismatchedKV answers transactions with something.
type fakeMismatchedKV struct {
	*fakeKVServer

	answer func() *pb.TxnResponse
}

func (c fakeMismatchedKV) Txn(context.Context, *pb.TxnRequest, ...grpc.CallOption) (*pb.TxnResponse, error) {
	return c.answer(), nil
}

func TestCoalesce_NilKVRejectsEveryCall(t *testing.T) {
	t.Parallel()
	k, ctx := kv.Coalesce(nil), t.Context()
	_, getErr := k.Get(ctx, "k")
	_, putErr := k.Put(ctx, "k", "v")
	_, delErr := k.Delete(ctx, "k")
	_, doErr := k.Do(ctx, clientv3.OpGet("k"))
	_, compactErr := k.Compact(ctx, 1)
	_, streamErr := k.GetStream(ctx, "k")
	_, txnErr := k.Txn(ctx).If(clientv3.Compare(clientv3.Version("k"), "=", 0)).Then(clientv3.OpGet("k")).Else(clientv3.OpGet("k")).Commit()
	for name, err := range map[string]error{
		"get": getErr, "put": putErr, "delete": delErr, "do": doErr, "compact": compactErr, "stream": streamErr, "txn": txnErr,
	} {
		require.ErrorIs(t, err, kv.ErrInvalid, name)
		assert.Contains(t, err.Error(), "no KV", name)
	}
}

// fakeRetryingKV stands for a KV that sends again by itself.
type fakeRetryingKV struct {
	clientv3.KV

	base clientv3.KV
}

func (r fakeRetryingKV) Base() clientv3.KV { return r.base }

// A Store retries by itself: it must share calls over what does not.
func TestCoalesce_StoreUsesKVWithoutRetries(t *testing.T) {
	t.Parallel()
	rpcs := etcdtest.Counter(t)
	cli, dir := rpcs.Client(t), etcdtest.Prefix(t)
	cli.KV = kv.Coalesce(fakeRetryingKV{KV: kv.Coalesce(nil), base: cli.KV})
	s := etcdtest.Must(kv.New(cli, kv.WithNamespace(dir)))
	_, err := cli.Put(t.Context(), "k", "v")
	require.ErrorIs(t, err, kv.ErrInvalid, "the KV itself is as it was")
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for range 10 {
				_, err := s.Put(t.Context(), strconv.Itoa(i), []byte("v"))
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	assert.Less(t, rpcs.Total(), 320, "%v", rpcs.Counts())
}

func TestCoalesce_UnsentWriteIsNotUnknownForStore(t *testing.T) {
	t.Parallel()
	const n = 3
	c := newCoalesceBench(t, asIs)
	ctx, stop := context.WithCancel(t.Context())
	results := c.storePuts(t, ctx, n)
	stop()
	for _, r := range results {
		err := <-r
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, kv.ErrUnknownOutcome)
		assert.True(t, errs.NotApplied(err))
	}
	c.release()
	assert.Equal(t, []int64{0, 0, 0}, c.versions(t, n))
}
