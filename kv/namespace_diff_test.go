package kv_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/kv"
)

// fakeEchoServer records the last request and answers it with the keys that it names.
type fakeEchoServer struct {
	pb.KVClient

	last proto.Message
}

func (s *fakeEchoServer) Range(_ context.Context, in *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	s.last = in
	return echoRange(in), nil
}

func (s *fakeEchoServer) Put(_ context.Context, in *pb.PutRequest, _ ...grpc.CallOption) (*pb.PutResponse, error) {
	s.last = in
	return echoPut(in), nil
}

func (s *fakeEchoServer) DeleteRange(_ context.Context, in *pb.DeleteRangeRequest, _ ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	s.last = in
	return echoDelete(in), nil
}

func (s *fakeEchoServer) Txn(_ context.Context, in *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	s.last = in
	return echoTxn(in), nil
}

// take returns the last request, nil if nothing was sent since.
func (s *fakeEchoServer) take() proto.Message {
	defer func() { s.last = nil }()
	return s.last
}

func echoRange(in *pb.RangeRequest) *pb.RangeResponse {
	return &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Key: in.Key}, {Key: in.Key, Value: []byte("v")}}, Count: 2}
}

func echoPut(in *pb.PutRequest) *pb.PutResponse {
	if !in.PrevKv {
		return &pb.PutResponse{}
	}
	return &pb.PutResponse{PrevKv: &mvccpb.KeyValue{Key: in.Key, Value: in.Value}}
}

func echoDelete(in *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	if !in.PrevKv {
		return &pb.DeleteRangeResponse{Deleted: 1}
	}
	return &pb.DeleteRangeResponse{Deleted: 1, PrevKvs: []*mvccpb.KeyValue{{Key: in.Key}}}
}

// echoTxn answers the branch that has more operations, so that both are seen.
func echoTxn(in *pb.TxnRequest) *pb.TxnResponse {
	out := &pb.TxnResponse{Succeeded: len(in.Success) >= len(in.Failure)}
	ops := in.Success
	if !out.Succeeded {
		ops = in.Failure
	}
	for _, op := range ops {
		var r pb.ResponseOp
		switch op := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			r.Response = &pb.ResponseOp_ResponseRange{ResponseRange: echoRange(op.RequestRange)}
		case *pb.RequestOp_RequestPut:
			r.Response = &pb.ResponseOp_ResponsePut{ResponsePut: echoPut(op.RequestPut)}
		case *pb.RequestOp_RequestDeleteRange:
			r.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: echoDelete(op.RequestDeleteRange)}
		case *pb.RequestOp_RequestTxn:
			r.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: echoTxn(op.RequestTxn)}
		}
		out.Responses = append(out.Responses, &r)
	}
	return out
}

// choices turns bytes into choices. When they run out, every choice is the first one.
type choices []byte

func (c *choices) intn(n int) int {
	if len(*c) == 0 {
		return 0
	}
	b := (*c)[0]
	*c = (*c)[1:]
	return int(b) % n
}

func (c *choices) key() string {
	if c.intn(64) == 63 {
		return ""
	}
	key := []byte{"abx/\x00\xff"[c.intn(6)]}
	for range c.intn(3) {
		key = append(key, "abx/\x00\xff"[c.intn(6)])
	}
	return string(key)
}

// rangeOption is one of the ways to say where a range ends.
func (c *choices) rangeOption(key string) clientv3.OpOption {
	switch c.intn(6) {
	case 1:
		return clientv3.WithPrefix()
	case 2:
		return clientv3.WithFromKey()
	case 3:
		return clientv3.WithRange(key + c.key())
	case 4:
		if c.intn(8) == 7 {
			return clientv3.WithRange(c.key()) // often inverted
		}
		return clientv3.WithRange("\x00")
	}
	return func(*clientv3.Op) {}
}

// singleOp is a get, put or delete, as an Op and as what it was made of.
type singleOp struct {
	op       clientv3.Op
	key, val string
	opts     []clientv3.OpOption
}

func (c *choices) singleOp() singleOp {
	s := singleOp{key: c.key()}
	add := func(o ...clientv3.OpOption) {
		if c.intn(4) == 3 {
			s.opts = append(s.opts, o...)
		}
	}
	switch c.intn(3) {
	case 1:
		s.val = c.key()
		add(clientv3.WithLease(clientv3.LeaseID(c.intn(9))))
		add(clientv3.WithPrevKV())
		add(clientv3.WithIgnoreLease())
		add(clientv3.WithIgnoreValue())
		s.op = clientv3.OpPut(s.key, s.val, s.opts...)
	case 2:
		s.opts = append(s.opts, c.rangeOption(s.key))
		add(clientv3.WithPrevKV())
		s.op = clientv3.OpDelete(s.key, s.opts...)
	default:
		s.opts = append(s.opts, c.rangeOption(s.key))
		add(clientv3.WithLimit(int64(c.intn(5))))
		add(clientv3.WithRev(int64(c.intn(5))))
		// The last order does not exist.
		add(clientv3.WithSort(clientv3.SortTarget(c.intn(5)), clientv3.SortOrder(c.intn(4))))
		add(clientv3.WithSerializable())
		add(clientv3.WithKeysOnly())
		add(clientv3.WithCountOnly())
		add(clientv3.WithMinModRev(int64(c.intn(5))))
		add(clientv3.WithMaxModRev(int64(c.intn(5))))
		add(clientv3.WithMinCreateRev(int64(c.intn(5))))
		add(clientv3.WithMaxCreateRev(int64(c.intn(5))))
		s.op = clientv3.OpGet(s.key, s.opts...)
	}
	return s
}

func (c *choices) ops(depth int) (ops []clientv3.Op) {
	for range c.intn(4) {
		switch n := c.intn(64); {
		case n == 63:
			ops = append(ops, clientv3.Op{})
		case n%3 == 1 && depth > 0:
			ops = append(ops, clientv3.OpTxn(c.cmps(), c.ops(depth-1), c.ops(depth-1)))
		default:
			ops = append(ops, c.singleOp().op)
		}
	}
	return ops
}

func (c *choices) cmps() (cmps []clientv3.Cmp) {
	for range c.intn(3) {
		key, result := c.key(), []string{"=", "!=", ">", "<"}[c.intn(4)]
		var cmp clientv3.Cmp
		switch c.intn(5) {
		case 1:
			cmp = clientv3.Compare(clientv3.Version(key), result, c.intn(9))
		case 2:
			cmp = clientv3.Compare(clientv3.CreateRevision(key), result, c.intn(9))
		case 3:
			cmp = clientv3.Compare(clientv3.ModRevision(key), result, c.intn(9))
		case 4:
			cmp = clientv3.Compare(clientv3.LeaseValue(key), result, c.intn(9))
		default:
			cmp = clientv3.Compare(clientv3.Value(key), result, c.key())
		}
		switch c.intn(8) {
		case 1:
			cmp = cmp.WithPrefix()
		case 2:
			cmp = cmp.WithRange(key + c.key())
		case 3:
			cmp = cmp.WithRange("\x00")
		case 4:
			cmp = cmp.WithRange(c.key())
		}
		cmps = append(cmps, cmp)
	}
	return cmps
}

// valid reports whether nothing in op is to be refused: no empty key, no inverted range, no zero
// Op.
func valid(op clientv3.Op) bool {
	if !op.IsTxn() {
		return (op.IsGet() || op.IsPut() || op.IsDelete()) && validRange(op.KeyBytes(), op.RangeBytes())
	}
	cmps, then, orElse := op.Txn()
	for i := range cmps {
		if !validRange(cmps[i].KeyBytes(), cmps[i].GetCompare().GetRangeEnd()) {
			return false
		}
	}
	for _, op := range append(append([]clientv3.Op{}, then...), orElse...) {
		if !valid(op) {
			return false
		}
	}
	return true
}

func validRange(key, end []byte) bool {
	return len(key) > 0 && (len(end) == 0 || string(end) == keyspace.ToEnd || string(end) > string(key))
}

// attempt is what one KV made of a call.
type attempt struct {
	sent proto.Message
	resp proto.Message
	err  error
}

// differ makes the same call on a KV of ours and on client/v3's.
type differ struct {
	server *fakeEchoServer
	direct clientv3.KV
	store  *kv.Store
	sent   int // transactions that the store has sent
}

func newDiffer(tb testing.TB) *differ {
	tb.Helper()
	server := &fakeEchoServer{}
	cli := clientv3.NewCtxClient(tb.Context())
	cli.KV = clientv3.NewKVFromKVClient(server, nil)
	return &differ{server: server, direct: cli.KV, store: etcdtest.Must(kv.New(cli, kv.WithNamespace("x")))}
}

func (d *differ) try(call func(clientv3.KV) (proto.Message, error), on clientv3.KV) attempt {
	resp, err := call(on)
	return attempt{sent: d.server.take(), resp: resp, err: err}
}

// compare requires that ours sends and returns what client/v3's namespace does, or refuses what is
// not valid.
func (d *differ) compare(tb testing.TB, ok bool, ours, theirs clientv3.KV, call func(clientv3.KV) (proto.Message, error)) {
	tb.Helper()
	got := d.try(call, ours)
	if !ok {
		require.ErrorIs(tb, got.err, kv.ErrInvalid)
		require.Nil(tb, got.sent, "nothing is sent")
		return
	}
	want := d.try(call, theirs)
	require.Equal(tb, want.err, got.err)
	require.True(tb, proto.Equal(want.sent, got.sent), "want %v\n got %v", want.sent, got.sent)
	if want.err == nil {
		require.True(tb, proto.Equal(want.resp, got.resp), "want %v\n got %v", want.resp, got.resp)
	}
}

// check derives a transaction and an operation from data, and compares all ways to make them.
func (d *differ) check(tb testing.TB, data []byte) {
	tb.Helper()
	c := choices(data)
	single, cmps, then, orElse := c.singleOp(), c.cmps(), c.ops(2), c.ops(1)
	whole := clientv3.OpTxn(cmps, then, orElse)
	ok := valid(whole)
	ctx := tb.Context()
	doTxn := func(k clientv3.KV) (proto.Message, error) {
		r, err := k.Do(ctx, whole)
		return (*pb.TxnResponse)(r.Txn()), err
	}
	commit := func(k clientv3.KV) (proto.Message, error) {
		r, err := k.Txn(ctx).If(cmps...).Then(then...).Else(orElse...).Commit()
		return (*pb.TxnResponse)(r), err
	}
	var before attempt
	if ok {
		before = d.try(doTxn, d.direct)
	}

	ours, theirs := kv.Namespace(d.direct, "x"), namespace.NewKV(d.direct, "x/")
	d.compare(tb, ok, ours, theirs, doTxn)
	d.compare(tb, ok, ours, theirs, commit)
	d.compare(tb, ok, kv.Namespace(ours, "a/"), namespace.NewKV(theirs, "a/"), commit)
	d.compare(tb, valid(single.op), ours, theirs, single.call(tb))
	d.compare(tb, valid(single.op), ours, theirs, func(k clientv3.KV) (proto.Message, error) { return single.response(k.Do(ctx, single.op)) })
	d.compareStore(tb, ok, theirs, commit)

	if ok {
		require.True(tb, proto.Equal(before.sent, d.try(doTxn, d.direct).sent), "the arguments are not changed")
	}
}

// compareStore compares a transaction of a Store, which refuses more: one that is empty, or puts a
// key twice.
func (d *differ) compareStore(tb testing.TB, ok bool, theirs clientv3.KV, commit func(clientv3.KV) (proto.Message, error)) {
	tb.Helper()
	got := d.try(commit, storeKV{store: d.store})
	if got.err != nil {
		require.ErrorIs(tb, got.err, kv.ErrInvalid)
		require.Nil(tb, got.sent, "nothing is sent")
		return
	}
	require.True(tb, ok)
	d.sent++
	want := d.try(commit, theirs)
	if readsHidden(want.sent.(*pb.TxnRequest)) { //nolint:forcetypeassert // nothing else is sent
		return
	}
	require.True(tb, proto.Equal(want.sent, got.sent), "want %v\n got %v", want.sent, got.sent)
	require.True(tb, proto.Equal(want.resp, got.resp), "want %v\n got %v", want.resp, got.resp)
}

// readsHidden reports whether a range that is read holds the library's own keys, which a Store
// leaves out.
func readsHidden(in *pb.TxnRequest) bool {
	for _, op := range append(append([]*pb.RequestOp{}, in.Success...), in.Failure...) {
		r, nested := op.GetRequestRange(), op.GetRequestTxn()
		if nested != nil && readsHidden(nested) || len(r.GetRangeEnd()) > 0 && string(r.GetKey()) < "x/.etcdkit0" && string(r.GetRangeEnd()) > "x/.etcdkit/" {
			return true
		}
	}
	return false
}

// storeKV is as much of a KV as a Store has.
type storeKV struct {
	clientv3.KV

	store *kv.Store
}

// Txn begins a transaction of the Store.
func (k storeKV) Txn(ctx context.Context) clientv3.Txn { return k.store.Txn(ctx) }

// call makes the operation by the method that is named after it.
func (s singleOp) call(tb testing.TB) func(clientv3.KV) (proto.Message, error) {
	ctx := tb.Context()
	return func(k clientv3.KV) (proto.Message, error) {
		switch {
		case s.op.IsPut():
			r, err := k.Put(ctx, s.key, s.val, s.opts...)
			return (*pb.PutResponse)(r), err
		case s.op.IsDelete():
			r, err := k.Delete(ctx, s.key, s.opts...)
			return (*pb.DeleteRangeResponse)(r), err
		}
		r, err := k.Get(ctx, s.key, s.opts...)
		return (*pb.RangeResponse)(r), err
	}
}

// response is the response to the operation.
func (s singleOp) response(r clientv3.OpResponse, err error) (proto.Message, error) {
	switch {
	case s.op.IsPut():
		return (*pb.PutResponse)(r.Put()), err
	case s.op.IsDelete():
		return (*pb.DeleteRangeResponse)(r.Del()), err
	}
	return (*pb.RangeResponse)(r.Get()), err
}

func FuzzNamespace_SendsWhatClientV3Sends(f *testing.F) {
	r := rand.NewChaCha8([32]byte{1})
	for range 20 {
		data := make([]byte, 200)
		_, _ = r.Read(data)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { newDiffer(t).check(t, data) })
}

func TestNamespace_SendsWhatClientV3Sends(t *testing.T) {
	t.Parallel()
	d := newDiffer(t)
	r := rand.NewChaCha8([32]byte{2})
	data := make([]byte, 200)
	n := 20_000
	if testing.Short() {
		n = 2000
	}
	for range n {
		_, _ = r.Read(data)
		d.check(t, data)
	}
	assert.Greater(t, d.sent, n/4, "else the store has refused almost everything")
}

func TestNamespace_TxnKeepsOperationsNextToNestedTxn(t *testing.T) {
	t.Parallel()
	never := []clientv3.Cmp{clientv3.Compare(clientv3.Version("absent"), ">", 0)}
	for name, tt := range map[string]struct {
		then []clientv3.Op
		want []string
	}{
		"a nested put":                   {[]clientv3.Op{clientv3.OpPut("outer", "1"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("inner", "1")}, nil)}, []string{"inner", "kept", "outer"}},
		"a nested get":                   {[]clientv3.Op{clientv3.OpPut("outer", "1"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("kept")}, nil)}, []string{"kept", "outer"}},
		"a delete in a branch not taken": {[]clientv3.Op{clientv3.OpPut("outer", "1"), clientv3.OpTxn(never, []clientv3.Op{clientv3.OpDelete("kept")}, nil)}, []string{"kept", "outer"}},
		"a nested transaction alone":     {[]clientv3.Op{clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("inner", "1")}, nil)}, []string{"inner", "kept"}},
	} {
		for kind, begin := range map[string]func(cli *clientv3.Client, dir string) clientv3.Txn{
			"Namespace": func(cli *clientv3.Client, dir string) clientv3.Txn { return kv.Namespace(cli.KV, dir).Txn(t.Context()) },
			"Store": func(cli *clientv3.Client, dir string) clientv3.Txn {
				return etcdtest.Must(kv.New(cli, kv.WithNamespace(dir))).Txn(t.Context())
			},
		} {
			t.Run(name+" of a "+kind, func(t *testing.T) {
				t.Parallel()
				cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
				_, err := cli.Put(t.Context(), dir+"kept", "1")
				require.NoError(t, err)
				resp, err := begin(cli, dir).Then(tt.then...).Commit()
				require.NoError(t, err)
				assert.Len(t, resp.Responses, len(tt.then))
				assert.Equal(t, tt.want, present(t, cli, dir))
			})
		}
	}
}
