package kv_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	testkit "github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// fakeRecordingServer is a server that records requests and returns the given responses.
type fakeRecordingServer struct {
	pb.KVClient

	mu   sync.Mutex
	asks []proto.Message

	gets   []*mvccpb.KeyValue // of each answer
	prev   *mvccpb.KeyValue
	txn    []*pb.ResponseOp
	chunks [][]*mvccpb.KeyValue // of a stream
	broken error                // how a stream ends
}

func (r *fakeRecordingServer) note(m proto.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asks = append(r.asks, proto.Clone(m))
}

func (r *fakeRecordingServer) Range(_ context.Context, in *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	r.note(in)
	return &pb.RangeResponse{Kvs: r.gets}, nil
}

func (r *fakeRecordingServer) Put(_ context.Context, in *pb.PutRequest, _ ...grpc.CallOption) (*pb.PutResponse, error) {
	r.note(in)
	return &pb.PutResponse{PrevKv: r.prev}, nil
}

func (r *fakeRecordingServer) DeleteRange(_ context.Context, in *pb.DeleteRangeRequest, _ ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	r.note(in)
	return &pb.DeleteRangeResponse{PrevKvs: r.gets}, nil
}

func (r *fakeRecordingServer) Txn(_ context.Context, in *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	r.note(in)
	return &pb.TxnResponse{Responses: r.txn}, nil
}

func (r *fakeRecordingServer) Compact(_ context.Context, in *pb.CompactionRequest, _ ...grpc.CallOption) (*pb.CompactionResponse, error) {
	r.note(in)
	return &pb.CompactionResponse{}, nil
}

func (r *fakeRecordingServer) RangeStream(ctx context.Context, in *pb.RangeRequest, _ ...grpc.CallOption) (pb.KV_RangeStreamClient, error) {
	r.note(in)
	return &fakeRangeStream{ctx: ctx, fakeRecordingServer: r, rest: r.chunks}, nil
}

type fakeRangeStream struct {
	grpc.ClientStream

	ctx context.Context
	*fakeRecordingServer
	rest [][]*mvccpb.KeyValue
}

func (s *fakeRangeStream) Recv() (*pb.RangeStreamResponse, error) {
	if s.ctx.Err() != nil {
		return nil, s.ctx.Err()
	}
	if len(s.rest) == 0 {
		if s.broken != nil {
			return nil, s.broken
		}
		return nil, io.EOF
	}
	chunk := s.rest[0]
	s.rest = s.rest[1:]
	return &pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Kvs: chunk}}, nil
}

func (r *fakeRecordingServer) kv() clientv3.KV { return clientv3.NewKVFromKVClient(r, nil) }

func pair(key string) *mvccpb.KeyValue { return &mvccpb.KeyValue{Key: []byte(key), Value: []byte("v")} }

func keysOf(kvs []*mvccpb.KeyValue) []string {
	keys := []string{}
	for _, kv := range kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

// present lists the absolute keys below prefix.
func present(t *testing.T, cli clientv3.KV, prefix string) []string {
	t.Helper()
	resp, err := cli.Get(t.Context(), prefix, clientv3.WithPrefix())
	require.NoError(t, err)
	keys := []string{}
	for _, kv := range resp.Kvs {
		keys = append(keys, strings.TrimPrefix(string(kv.Key), prefix))
	}
	return keys
}

// neighbours puts keys just around the namespace home+"app" and returns what they are.
func neighbours(t *testing.T, cli clientv3.KV, home string) []string {
	t.Helper()
	outside := []string{"app", "app.", "app/", "app0", "app2/secret", "app\xff"}
	for _, key := range outside {
		_, err := cli.Put(t.Context(), home+key, "outside")
		require.NoError(t, err)
	}
	return outside
}

func TestNamespace_DoesNotReachNeighbors(t *testing.T) {
	t.Parallel()
	cli, home := etcdtest.Client(t), etcdtest.Prefix(t)
	outside := neighbours(t, cli, home)
	ns := kv.Namespace(cli, home+"app")
	ctx := t.Context()

	for _, key := range []string{"2/secret", "a", "a\xff", "a\xff\xff", "b", "\x00", "\xff", "../up"} {
		_, err := ns.Put(ctx, key, "inside")
		require.NoError(t, err)
	}
	assert.Contains(t, present(t, cli, home), "app/2/secret", "not app2/secret")

	for _, c := range []struct {
		name, key string
		opts      []clientv3.OpOption
		want      []string
	}{
		{"everything by an empty prefix", "", []clientv3.OpOption{clientv3.WithPrefix()}, []string{"\x00", "../up", "2/secret", "a", "a\xff", "a\xff\xff", "b", "\xff"}},
		{"everything from the empty key", "", []clientv3.OpOption{clientv3.WithFromKey()}, []string{"\x00", "../up", "2/secret", "a", "a\xff", "a\xff\xff", "b", "\xff"}},
		{"from a key to the end", "b", []clientv3.OpOption{clientv3.WithFromKey()}, []string{"b", "\xff"}},
		{"a range to the end", "b", []clientv3.OpOption{clientv3.WithRange("\x00")}, []string{"b", "\xff"}},
		{"a range", "2", []clientv3.OpOption{clientv3.WithRange("a\xff")}, []string{"2/secret", "a"}},
		{"a prefix", "a", []clientv3.OpOption{clientv3.WithPrefix()}, []string{"a", "a\xff", "a\xff\xff"}},
		{"a prefix that ends in 0xff", "a\xff", []clientv3.OpOption{clientv3.WithPrefix()}, []string{"a\xff", "a\xff\xff"}},
		{"a prefix of nothing but 0xff", "\xff", []clientv3.OpOption{clientv3.WithPrefix()}, []string{"\xff"}},
		{"the last of two ends", "a", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRange("\x00")}, []string{"a", "a\xff", "a\xff\xff", "b", "\xff"}},
		{"the first key", "", clientv3.WithFirstKey(), []string{"\x00"}},
		{"the last key", "", clientv3.WithLastKey(), []string{"\xff"}},
		{"one key", "../up", nil, []string{"../up"}},
		{"more options than fit on a stack", "a", append(clientv3.WithLastKey(), clientv3.WithRev(0), clientv3.WithMinModRev(0), clientv3.WithMaxModRev(0), clientv3.WithMinCreateRev(0), clientv3.WithKeysOnly(), clientv3.WithSerializable()), []string{"a\xff\xff"}},
		{"an option that looks at the key", "a", []clientv3.OpOption{func(op *clientv3.Op) { op.WithRangeBytes(append(op.KeyBytes(), 0xff, 0)) }}, []string{"a", "a\xff"}},
		{"an option that changes the key", "a", []clientv3.OpOption{func(op *clientv3.Op) { op.WithKeyBytes([]byte("b")) }}, []string{"b"}},
	} {
		resp, err := ns.Get(ctx, c.key, c.opts...)
		require.NoError(t, err, c.name)
		assert.Equal(t, c.want, keysOf(resp.Kvs), c.name)

		done, err := ns.Do(ctx, clientv3.OpGet(c.key, c.opts...))
		require.NoError(t, err, c.name)
		assert.Equal(t, c.want, keysOf(done.Get().Kvs), c.name)

		txn, err := ns.Txn(ctx).Then(clientv3.OpGet(c.key, c.opts...)).Commit()
		require.NoError(t, err, c.name)
		assert.Equal(t, c.want, keysOf(txn.Responses[0].GetResponseRange().Kvs), c.name)
	}

	deleted, err := ns.Txn(ctx).Then(clientv3.OpDelete("", clientv3.WithPrefix(), clientv3.WithPrevKV())).Commit()
	require.NoError(t, err)
	assert.EqualValues(t, 8, deleted.Responses[0].GetResponseDeleteRange().Deleted)
	assert.Equal(t, "\x00", string(deleted.Responses[0].GetResponseDeleteRange().PrevKvs[0].Key))
	assert.Equal(t, outside, present(t, cli, home), "all that is left, and nothing else, lies outside")
}

func TestNamespace_DeletesOnlyItsKeys(t *testing.T) {
	t.Parallel()
	cli, home := etcdtest.Client(t), etcdtest.Prefix(t)
	outside := neighbours(t, cli, home)
	ns := kv.Namespace(cli, home+"app/")
	for name, opts := range map[string][]clientv3.OpOption{
		"by an empty prefix":       {clientv3.WithPrefix()},
		"from the empty key":       {clientv3.WithFromKey()},
		"and tells what was there": {clientv3.WithFromKey(), clientv3.WithPrevKV()},
	} {
		for _, key := range []string{"a", "\xff\xff"} {
			prev, err := ns.Put(t.Context(), key, name, clientv3.WithPrevKV())
			require.NoError(t, err)
			assert.Nil(t, prev.PrevKv)
		}
		again, err := ns.Put(t.Context(), "a", name, clientv3.WithPrevKV())
		require.NoError(t, err)
		assert.Equal(t, "a", string(again.PrevKv.Key))

		resp, err := ns.Delete(t.Context(), "", opts...)
		require.NoError(t, err, name)
		assert.EqualValues(t, 2, resp.Deleted, name)
		if len(opts) > 1 {
			assert.Equal(t, []string{"a", "\xff\xff"}, keysOf(resp.PrevKvs))
		}
		assert.Equal(t, outside, present(t, cli, home), name)
	}
}

func TestNamespace_MapsNestedTransactions(t *testing.T) {
	t.Parallel()
	cli, home := etcdtest.Client(t), etcdtest.Prefix(t)
	ctx := t.Context()
	ns := kv.Namespace(cli, home+"app")
	// The same keys mean something else one level up.
	for _, key := range []string{"lock", "lock/0"} {
		_, err := cli.Put(ctx, home+key, "outside")
		require.NoError(t, err)
	}
	inner := clientv3.OpTxn(
		[]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision("lock/"), "=", 0).WithPrefix()},
		[]clientv3.Op{clientv3.OpPut("lock/1", "won"), clientv3.OpGet("", clientv3.WithPrefix())},
		[]clientv3.Op{clientv3.OpGet("lock/", clientv3.WithPrefix())},
	)
	attempt := func() *clientv3.TxnResponse {
		resp, err := ns.Txn(ctx).
			If(clientv3.Compare(clientv3.Version("lock"), "=", 0)).
			Then(clientv3.OpPut("seen", "x"), inner, clientv3.OpDelete("nothing")).
			Else(clientv3.OpGet("lock")).
			Commit()
		require.NoError(t, err)
		return resp
	}
	first := attempt()
	require.True(t, first.Succeeded)
	nested := first.Responses[1].GetResponseTxn()
	require.True(t, nested.Succeeded, "the keys outside were not compared")
	assert.Equal(t, []string{"lock/1", "seen"}, keysOf(nested.Responses[1].GetResponseRange().Kvs))

	nested = attempt().Responses[1].GetResponseTxn()
	require.False(t, nested.Succeeded)
	assert.Equal(t, []string{"lock/1"}, keysOf(nested.Responses[0].GetResponseRange().Kvs))

	done, err := ns.Do(ctx, inner)
	require.NoError(t, err)
	assert.Equal(t, []string{"lock/1"}, keysOf(done.Txn().Responses[0].GetResponseRange().Kvs))

	_, err = ns.Put(ctx, "lock", "x")
	require.NoError(t, err)
	last := attempt()
	require.False(t, last.Succeeded)
	assert.Equal(t, []string{"lock"}, keysOf(last.Responses[0].GetResponseRange().Kvs))
	assert.Equal(t, []string{"app/lock", "app/lock/1", "app/seen", "lock", "lock/0"}, present(t, cli, home))
}

func TestNamespace_GetStreamTrimsKeys(t *testing.T) {
	t.Parallel()
	cli, home := etcdtest.Client(t), etcdtest.Prefix(t)
	testkit.Requires(t, testkit.RangeStream)
	neighbours(t, cli, home)
	outer := kv.Namespace(cli, home)
	inner := kv.Namespace(outer, "app")
	want := []string{}
	for _, key := range []string{"a", "a\xff", "b", "\xff"} {
		want = append(want, key)
		_, err := inner.Put(t.Context(), key, "v")
		require.NoError(t, err)
	}
	for name, ns := range map[string]clientv3.KV{"one": kv.Namespace(cli, home+"app"), "nested": inner} {
		stream, err := ns.GetStream(t.Context(), "", clientv3.WithPrefix())
		require.NoError(t, err, name)
		resp, err := clientv3.GetStreamToGetResponse(stream)
		require.NoError(t, err, name)
		assert.Equal(t, want, keysOf(resp.Kvs), name)
		assert.NotZero(t, resp.Header.Revision, name)

		stream, err = ns.GetStream(t.Context(), "a\xff", clientv3.WithRange("\x00"), clientv3.WithLimit(2), clientv3.WithKeysOnly())
		require.NoError(t, err, name)
		resp, err = clientv3.GetStreamToGetResponse(stream)
		require.NoError(t, err, name)
		assert.Equal(t, want[1:3], keysOf(resp.Kvs), name)
		assert.True(t, resp.More, name)
	}
}

func fourChunks() [][]*mvccpb.KeyValue {
	return [][]*mvccpb.KeyValue{{pair("app/a")}, {pair("app/b")}, {pair("app/c")}, {pair("app/d")}}
}

func TestNamespace_StreamReportsTruncation(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	r := &fakeRecordingServer{chunks: fourChunks(), broken: broken}
	ns := kv.Namespace(r.kv(), "app")

	stream, err := ns.GetStream(t.Context(), "a", clientv3.WithFromKey())
	require.NoError(t, err)
	resp, err := clientv3.GetStreamToGetResponse(stream)
	require.ErrorIs(t, err, broken, "an error of the stream comes through")
	assert.Nil(t, resp)

	for read := range 3 {
		r.chunks, r.broken = fourChunks(), nil
		ctx, stop := context.WithCancel(t.Context())
		stream, err = ns.GetStream(ctx, "a", clientv3.WithFromKey())
		require.NoError(t, err)
		for range read {
			chunk := <-stream
			require.NoError(t, chunk.Err())
		}
		stop() // while the reader is busy
		resp, err = clientv3.GetStreamToGetResponse(stream)
		require.True(t, err != nil || len(resp.Kvs) == 4-read, "after %d chunks: the rest, or an error", read)
	}

	r.chunks = [][]*mvccpb.KeyValue{{pair("app/a")}, {pair("apple")}}
	stream, err = ns.GetStream(t.Context(), "a", clientv3.WithFromKey())
	require.NoError(t, err)
	_, err = clientv3.GetStreamToGetResponse(stream)
	require.ErrorContains(t, err, `"apple"`)
}

// TestNamespace_StreamCanBeAbandoned leaves streams unread: the check for leaked goroutines at the
// end finds them.
func TestNamespace_StreamCanBeAbandoned(t *testing.T) {
	t.Parallel()
	for range 10 {
		r := &fakeRecordingServer{chunks: fourChunks()}
		ctx, stop := context.WithCancel(t.Context())
		_, err := kv.Namespace(r.kv(), "app").GetStream(ctx, "a", clientv3.WithFromKey())
		require.NoError(t, err)
		stop()
	}
}

func TestNamespace_RejectsInvalidCallsBeforeSending(t *testing.T) {
	t.Parallel()
	get := func(key string, opts ...clientv3.OpOption) func(context.Context, clientv3.KV) error {
		return func(ctx context.Context, kv clientv3.KV) error {
			_, err := kv.Get(ctx, key, opts...)
			return err
		}
	}
	do := func(op clientv3.Op) func(context.Context, clientv3.KV) error {
		return func(ctx context.Context, kv clientv3.KV) error {
			_, err := kv.Do(ctx, op)
			return err
		}
	}
	txn := func(cmps []clientv3.Cmp, then, orElse []clientv3.Op) func(context.Context, clientv3.KV) error {
		return func(ctx context.Context, kv clientv3.KV) error {
			_, err := kv.Txn(ctx).If(cmps...).Then(then...).Else(orElse...).Commit()
			if _, direct := kv.Do(ctx, clientv3.OpTxn(cmps, then, orElse)); (err == nil) != (direct == nil) {
				return errors.New("Txn and OpTxn disagree")
			}
			return err
		}
	}
	type (
		ops  = []clientv3.Op
		cmps = []clientv3.Cmp
	)
	good := clientv3.OpGet("x")
	for _, c := range []struct {
		name, text string
		call       func(context.Context, clientv3.KV) error
	}{
		{"a get of the empty key", "kv: get: invalid argument: key is empty", get("")},
		{"an empty key with an end", "empty", get("", clientv3.WithRange("z"))},
		{"a range that ends before it begins", `kv: get "b": invalid argument: range ends at "a"`, get("b", clientv3.WithRange("a"))},
		{"a range that ends where it begins", "before it begins", get("b", clientv3.WithRange("b"))},
		{"a put of the empty key", "kv: put: invalid argument: key is empty", func(ctx context.Context, kv clientv3.KV) error {
			_, err := kv.Put(ctx, "", "v")
			return err
		}},
		{"a delete of the empty key", "kv: delete: invalid argument: key is empty", func(ctx context.Context, kv clientv3.KV) error {
			_, err := kv.Delete(ctx, "")
			return err
		}},
		{"a delete of a backward range", "before it begins", func(ctx context.Context, kv clientv3.KV) error {
			_, err := kv.Delete(ctx, "b", clientv3.WithRange("a"))
			return err
		}},
		{"a stream from the empty key", "kv: get stream: invalid argument: key is empty", func(ctx context.Context, kv clientv3.KV) error {
			_, err := kv.GetStream(ctx, "")
			return err
		}},
		{"an operation that is none", "the zero Op", do(clientv3.Op{})},
		{"an operation on the empty key", "empty", do(clientv3.OpDelete(""))},
		{"an operation that is none in a branch", "the zero Op", txn(nil, ops{good, {}}, nil)},
		{"an empty key in the first branch", "put: invalid argument: key is empty", txn(nil, ops{good, clientv3.OpPut("", "v")}, nil)},
		{"an empty key in the second branch", "empty", txn(nil, nil, ops{clientv3.OpGet("")})},
		{"a compare of the empty key", "compare: invalid argument: key is empty", txn(cmps{clientv3.Compare(clientv3.Version(""), "=", 0)}, ops{good}, nil)},
		{"a compare of everything without a key", "empty", txn(cmps{clientv3.Compare(clientv3.Version(""), "=", 0).WithPrefix()}, ops{good}, nil)},
		{"a compare that is none", "empty", txn(cmps{{}}, ops{good}, nil)},
		{"a compare of a backward range", "before it begins", txn(cmps{clientv3.Compare(clientv3.Version("b"), "=", 0).WithRange("a")}, ops{good}, nil)},
		{"an empty key in a nested transaction", "empty", txn(nil, ops{clientv3.OpTxn(nil, ops{clientv3.OpTxn(nil, nil, ops{clientv3.OpPut("", "v")})}, nil)}, nil)},
		{"an empty compare in a nested transaction", "compare", txn(nil, ops{clientv3.OpTxn(cmps{clientv3.Compare(clientv3.Version(""), "=", 0)}, nil, nil)}, nil)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, dir := range []string{"app", ""} {
				r := &fakeRecordingServer{}
				err := c.call(t.Context(), kv.Namespace(r.kv(), dir))
				require.ErrorIs(t, err, kv.ErrInvalid)
				require.ErrorContains(t, err, c.text)
				assert.Equal(t, strings.Contains(err.Error(), "key is empty"), errors.Is(err, rpctypes.ErrEmptyKey), err)
				assert.True(t, errs.NotApplied(err))
				assert.Empty(t, r.asks, "nothing was sent")
			}
		})
	}
}

func TestNamespace_InvalidDirRejectsEveryCall(t *testing.T) {
	t.Parallel()
	r := &fakeRecordingServer{}
	for _, ns := range []clientv3.KV{kv.Namespace(r.kv(), "a//b"), kv.Namespace(r.kv(), "/"), kv.Namespace(r.kv(), "a\x00"), kv.Namespace(nil, "a")} {
		ctx := t.Context()
		_, get := ns.Get(ctx, "k")
		_, stream := ns.GetStream(ctx, "k")
		_, put := ns.Put(ctx, "k", "v")
		_, del := ns.Delete(ctx, "k")
		_, do := ns.Do(ctx, clientv3.OpGet("k"))
		_, doTxn := ns.Do(ctx, clientv3.OpTxn(nil, nil, nil))
		_, compact := ns.Compact(ctx, 1)
		_, txn := ns.Txn(ctx).If(clientv3.Compare(clientv3.Version("k"), "=", 0)).Then(clientv3.OpGet("k")).Else(clientv3.OpGet("k")).Commit()
		for _, err := range []error{get, stream, put, del, do, doTxn, compact, txn} {
			require.ErrorIs(t, err, kv.ErrInvalid)
			assert.True(t, errs.NotApplied(err))
		}
	}
	assert.Empty(t, r.asks)
}

func TestNamespace_RejectsResponseFromOutside(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "a", "app", "app/", "apple/x"} {
		foreign := pair(key)
		r := &fakeRecordingServer{gets: []*mvccpb.KeyValue{pair("app/a"), foreign}, prev: foreign}
		ctx := t.Context()
		ns := kv.Namespace(r.kv(), "app")
		_, get := ns.Get(ctx, "a", clientv3.WithPrefix())
		_, do := ns.Do(ctx, clientv3.OpGet("a"))
		r.gets = []*mvccpb.KeyValue{foreign}
		_, del := ns.Delete(ctx, "a", clientv3.WithPrevKV())
		_, put := ns.Put(ctx, "a", "v", clientv3.WithPrevKV())
		found := []error{get, do, del, put}
		for _, answer := range []*pb.ResponseOp{
			{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{foreign}}}},
			{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{PrevKv: foreign}}},
			{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{PrevKvs: []*mvccpb.KeyValue{foreign}}}},
			{Response: &pb.ResponseOp_ResponseRange{}},
		} {
			nested := &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: &pb.TxnResponse{Responses: []*pb.ResponseOp{answer}}}}
			for _, one := range []*pb.ResponseOp{answer, nested} {
				r.txn = []*pb.ResponseOp{one}
				_, err := ns.Txn(ctx).Then(clientv3.OpGet("a")).Commit()
				found = append(found, err)
			}
		}
		for i, err := range found {
			require.Error(t, err, "%q: %d", key, i)
			require.ErrorContains(t, err, "response")
			assert.False(t, errs.NotApplied(err), "the operation was made")
			assert.NotErrorIs(t, err, kv.ErrInvalid)
		}
	}
}

func TestNamespace_DoesNotModifyArguments(t *testing.T) {
	t.Parallel()
	cmps := []clientv3.Cmp{
		clientv3.Compare(clientv3.Value("k"), "=", "v"),
		clientv3.Compare(clientv3.LeaseValue("k"), ">", 7).WithRange("z"),
	}
	ops := []clientv3.Op{clientv3.OpPut("k", "v"), clientv3.OpGet("k", clientv3.WithPrefix()), clientv3.OpDelete("k", clientv3.WithFromKey())}
	nested := clientv3.OpTxn(cmps, ops, ops)
	show := func() string {
		var b strings.Builder
		for i := range cmps {
			b.WriteString(cmps[i].GetCompare().String())
		}
		innerCmps, then, orElse := nested.Txn()
		for i := range innerCmps {
			b.WriteString(innerCmps[i].GetCompare().String())
		}
		for _, op := range append(append(append([]clientv3.Op{}, ops...), then...), orElse...) {
			b.WriteString(string(op.KeyBytes()) + "|" + string(op.RangeBytes()) + "|" + string(op.ValueBytes()) + "\n")
		}
		return b.String()
	}
	before := show()
	r := &fakeRecordingServer{}
	ns := kv.Namespace(r.kv(), "app")
	for range 2 {
		_, err := ns.Txn(t.Context()).If(cmps...).Then(append(ops, nested)...).Else(ops...).Commit()
		require.NoError(t, err)
		_, err = ns.Do(t.Context(), nested)
		require.NoError(t, err)
		for _, op := range ops {
			_, err = ns.Do(t.Context(), op)
			require.NoError(t, err)
		}
	}
	assert.Equal(t, before, show())
	half := len(r.asks) / 2
	for i := range half {
		assert.True(t, proto.Equal(r.asks[i], r.asks[half+i]), "the second time gives the same request as the first")
	}
}

// TestNamespace_KeepsAllFieldsOfCompare guards the copy that is made of a compare: a field that a
// later etcd adds must be copied as well.
func TestNamespace_KeepsAllFieldsOfCompare(t *testing.T) {
	t.Parallel()
	known := map[string]bool{
		"result": true, "target": true, "key": true, "range_end": true, // and the values
		"version": true, "create_revision": true, "mod_revision": true, "value": true, "lease": true,
	}
	fields := (&pb.Compare{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		assert.True(t, known[string(fields.Get(i).Name())], "%s is copied", fields.Get(i).Name())
	}
	for _, cmp := range []clientv3.Cmp{
		clientv3.Compare(clientv3.Value("k"), "=", "v"),
		clientv3.Compare(clientv3.Version("k"), "!=", 1),
		clientv3.Compare(clientv3.CreateRevision("k"), "<", 2),
		clientv3.Compare(clientv3.ModRevision("k"), ">", 3),
		clientv3.Compare(clientv3.LeaseValue("k"), "=", 4).WithRange("z"),
	} {
		r := &fakeRecordingServer{}
		ns := kv.Namespace(r.kv(), "app")
		_, err := ns.Txn(t.Context()).If(cmp).Commit()
		require.NoError(t, err)
		_, err = ns.Do(t.Context(), clientv3.OpTxn([]clientv3.Cmp{cmp}, nil, nil))
		require.NoError(t, err)
		want := cmp.Clone()
		want.WithKeyBytes([]byte("app/k"))
		if len(want.GetCompare().GetRangeEnd()) > 0 {
			want.GetCompare().RangeEnd = []byte("app/z")
		}
		for _, ask := range r.asks {
			sent, ok := ask.(*pb.TxnRequest)
			require.True(t, ok)
			assert.True(t, proto.Equal(want.GetCompare(), sent.Compare[0]), "%v", sent.Compare[0])
		}
	}
}

func TestNamespace_PassesCompactThrough(t *testing.T) {
	t.Parallel()
	r := &fakeRecordingServer{}
	_, err := kv.Namespace(r.kv(), "app").Compact(t.Context(), 7)
	require.NoError(t, err)
	require.Len(t, r.asks, 1)
	assert.True(t, proto.Equal(&pb.CompactionRequest{Revision: 7}, r.asks[0]))
}

func TestNamespace_EmptyDirIsWholeKeySpace(t *testing.T) {
	t.Parallel()
	r := &fakeRecordingServer{gets: []*mvccpb.KeyValue{pair("k")}}
	ns := kv.Namespace(r.kv(), "")
	resp, err := ns.Get(t.Context(), "", clientv3.WithPrefix())
	require.NoError(t, err)
	assert.Equal(t, []string{"k"}, keysOf(resp.Kvs))
	_, err = ns.Get(t.Context(), "k", clientv3.WithRange("z"))
	require.NoError(t, err)
	assert.True(t, proto.Equal(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}, r.asks[0]))
	assert.True(t, proto.Equal(&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("z")}, r.asks[1]))
}

func TestNamespace_ConcurrentUse(t *testing.T) {
	t.Parallel()
	cli, home := etcdtest.Client(t), etcdtest.Prefix(t)
	ns := kv.Namespace(cli, home)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			key := string(rune('a' + g))
			for range 50 {
				_, err := ns.Put(t.Context(), key, key, clientv3.WithPrevKV())
				assert.NoError(t, err)
				resp, err := ns.Get(t.Context(), key, clientv3.WithPrefix(), clientv3.WithLimit(2))
				assert.NoError(t, err)
				assert.Equal(t, []string{key}, keysOf(resp.Kvs))
			}
		})
	}
	all.Wait()
}
