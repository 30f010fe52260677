package kv_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/kv"
)

// FuzzNamespaceEscape looks at what is sent for any dir, key and end: nothing of it may lie outside
// of the namespace.
func FuzzNamespaceEscape(f *testing.F) {
	f.Add("app", "2/secret", "", byte(0))
	f.Add("app/", "", "", byte(1))
	f.Add("a\xff", "\xff\xff", "\x00", byte(2))
	f.Add("", "k", "", byte(3))
	f.Add("/x", "../../y", "z", byte(2))
	f.Add("app", "", "\x00", byte(2))
	f.Fuzz(func(t *testing.T, dir, key, end string, how byte) {
		home, err := keyspace.Dir(dir)
		if err != nil {
			return
		}
		r := &fakeRecordingServer{}
		ns := kv.Namespace(r.kv(), dir)
		ctx := t.Context()

		opts := [][]clientv3.OpOption{nil, {clientv3.WithPrefix()}, {clientv3.WithRange(end)}, {clientv3.WithFromKey()}}[how%4]
		get, del, put := clientv3.OpGet(key, opts...), clientv3.OpDelete(key, opts...), clientv3.OpPut(key, "v")
		cmp := clientv3.Compare(clientv3.Version(key), "=", 0)
		switch how % 4 {
		case 1:
			cmp = cmp.WithPrefix()
		case 2, 3:
			cmp = cmp.WithRange(end)
		}
		_, _ = ns.Get(ctx, key, opts...)
		_, _ = ns.Delete(ctx, key, opts...)
		_, _ = ns.Put(ctx, key, "v")
		if stream, err := ns.GetStream(ctx, key, opts...); err == nil {
			_, _ = clientv3.GetStreamToGetResponse(stream)
		}
		for _, op := range []clientv3.Op{get, del, put} {
			_, _ = ns.Do(ctx, op)
			_, _ = ns.Txn(ctx).Then(op).Else(op).Commit()
			_, _ = ns.Do(ctx, clientv3.OpTxn(nil, []clientv3.Op{op}, []clientv3.Op{clientv3.OpTxn(nil, nil, []clientv3.Op{op})}))
		}
		_, _ = ns.Txn(ctx).If(cmp).Commit()
		_, _ = ns.Do(ctx, clientv3.OpTxn([]clientv3.Cmp{cmp}, nil, nil))

		for _, ask := range r.asks {
			for _, span := range spansOf(ask) {
				require.False(t, span.Empty(), "%q is sent", span)
				require.Equal(t, span, keyspace.Within(home, "").Intersect(span), "%q leaves %q", span, home)
			}
		}
	})
}

// spansOf lists what a request touches.
func spansOf(m any) []keyspace.Range {
	span := func(key, end []byte) []keyspace.Range {
		if len(end) == 0 {
			return []keyspace.Range{keyspace.One(string(key))}
		}
		return []keyspace.Range{{From: string(key), To: string(end)}}
	}
	switch m := m.(type) {
	case *pb.RangeRequest:
		return span(m.Key, m.RangeEnd)
	case *pb.PutRequest:
		return span(m.Key, nil)
	case *pb.DeleteRangeRequest:
		return span(m.Key, m.RangeEnd)
	case *pb.TxnRequest:
		var all []keyspace.Range
		for _, c := range m.Compare {
			all = append(all, span(c.Key, c.RangeEnd)...)
		}
		for _, op := range slices.Concat(m.Success, m.Failure) {
			switch op := op.Request.(type) {
			case *pb.RequestOp_RequestRange:
				all = append(all, spansOf(op.RequestRange)...)
			case *pb.RequestOp_RequestPut:
				all = append(all, spansOf(op.RequestPut)...)
			case *pb.RequestOp_RequestDeleteRange:
				all = append(all, spansOf(op.RequestDeleteRange)...)
			case *pb.RequestOp_RequestTxn:
				all = append(all, spansOf(op.RequestTxn)...)
			}
		}
		return all
	default:
		panic(fmt.Sprintf("%T", m))
	}
}

// action is an operation in words of its own, to be made through the namespace and, mapped by hand,
// without it.
type action struct {
	kind     string // get, put, delete
	key, end string
	to       string // one, prefix, range, rest
	limit    int64
	reverse  bool
	ifAbsent string // makes it a transaction
}

func drawAction(r *rand.Rand) action {
	draw := func() string {
		key := make([]byte, 1+r.IntN(3))
		for i := range key {
			key[i] = "ab/\x00\xff"[r.IntN(5)]
		}
		return string(key)
	}
	a := action{
		kind: []string{"get", "put", "put", "delete"}[r.IntN(4)],
		key:  draw(), end: draw(),
		to: []string{"one", "prefix", "range", "rest"}[r.IntN(4)],
	}
	if r.IntN(4) == 0 && a.kind != "put" && a.to != "one" && a.to != "range" {
		a.key = ""
	}
	if a.end <= a.key || a.end == "\x00" {
		a.end = a.key + "\x01"
	}
	if a.kind == "get" {
		a.limit, a.reverse = int64(r.IntN(3)), r.IntN(2) == 0
	}
	if r.IntN(3) == 0 {
		a.ifAbsent = draw()
	}
	return a
}

// natural returns the operation without regard to the namespace.
func (a action) natural() clientv3.Op {
	var opts []clientv3.OpOption
	switch a.to {
	case "prefix":
		opts = append(opts, clientv3.WithPrefix())
	case "range":
		opts = append(opts, clientv3.WithRange(a.end))
	case "rest":
		opts = append(opts, clientv3.WithFromKey())
	}
	return a.op(a.key, opts)
}

// byHand is the action below home.
func (a action) byHand(home string) clientv3.Op {
	var r keyspace.Range
	inside := keyspace.Within(home, "")
	switch a.to {
	case "one":
		return a.op(home+a.key, nil)
	case "prefix":
		r = keyspace.Under(home + a.key).Intersect(inside)
	case "range":
		r = keyspace.Range{From: home + a.key, To: home + a.end}
	case "rest":
		r = keyspace.Range{From: home + a.key, To: keyspace.ToEnd}.Intersect(inside)
	}
	return a.op(r.From, []clientv3.OpOption{clientv3.WithRange(r.To)})
}

func (a action) op(key string, opts []clientv3.OpOption) clientv3.Op {
	switch a.kind {
	case "put":
		return clientv3.OpPut(key, a.end, clientv3.WithPrevKV())
	case "delete":
		return clientv3.OpDelete(key, append(opts, clientv3.WithPrevKV())...)
	}
	opts = append(opts, clientv3.WithLimit(a.limit))
	if a.reverse {
		opts = append(opts, clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	}
	return clientv3.OpGet(key, opts...)
}

// outcome prints what an answer says but the revisions, with home taken off the keys.
func outcome(t *testing.T, resp clientv3.OpResponse, home string) string {
	t.Helper()
	var b strings.Builder
	kvs := func(kvs ...*mvccpb.KeyValue) {
		for _, kv := range kvs {
			if kv != nil {
				require.True(t, strings.HasPrefix(string(kv.Key), home))
				fmt.Fprintf(&b, " %q=%q v%d", kv.Key[len(home):], kv.Value, kv.Version)
			}
		}
	}
	switch {
	case resp.Get() != nil:
		fmt.Fprintf(&b, "get %d %t", resp.Get().Count, resp.Get().More)
		kvs(resp.Get().Kvs...)
	case resp.Put() != nil:
		b.WriteString("put")
		kvs(resp.Put().PrevKv)
	case resp.Del() != nil:
		fmt.Fprintf(&b, "delete %d", resp.Del().Deleted)
		kvs(resp.Del().PrevKvs...)
	case resp.Txn() != nil:
		fmt.Fprintf(&b, "txn %t", resp.Txn().Succeeded)
		for _, r := range resp.Txn().Responses {
			var one clientv3.OpResponse
			switch r := r.Response.(type) {
			case *pb.ResponseOp_ResponseRange:
				one = (*clientv3.GetResponse)(r.ResponseRange).OpResponse()
			case *pb.ResponseOp_ResponsePut:
				one = (*clientv3.PutResponse)(r.ResponsePut).OpResponse()
			case *pb.ResponseOp_ResponseDeleteRange:
				one = (*clientv3.DeleteResponse)(r.ResponseDeleteRange).OpResponse()
			}
			b.WriteString(" [" + outcome(t, one, home) + "]")
		}
	}
	return b.String()
}

// TestNamespace_MatchesMappingByHand makes the same random operations in a namespace and, with the
// keys mapped by hand, in a dir of its own, and compares all answers.
func TestNamespace_MatchesMappingByHand(t *testing.T) {
	t.Parallel()
	cli, root := etcdtest.Client(t), etcdtest.Prefix(t)
	outside := neighbours(t, cli, root+"walled/")
	inNS, byHand := root+"walled/app/", root+"hand/"
	ns := kv.Namespace(cli, inNS)
	ctx := t.Context()
	r := rand.New(rand.NewPCG(11, 12))
	for i := range 3000 {
		a := drawAction(r)
		natural, mapped := a.natural(), a.byHand(byHand)
		var got, want clientv3.OpResponse
		var err error
		if a.ifAbsent == "" {
			got, err = ns.Do(ctx, natural)
			require.NoError(t, err, "%+v", a)
			want, err = cli.Do(ctx, mapped)
			require.NoError(t, err, "%+v", a)
		} else {
			resp, err := ns.Txn(ctx).If(clientv3.Compare(clientv3.Version(a.ifAbsent), "=", 0)).Then(natural).Else(clientv3.OpGet(a.ifAbsent)).Commit()
			require.NoError(t, err, "%+v", a)
			got = resp.OpResponse()
			resp, err = cli.Txn(ctx).If(clientv3.Compare(clientv3.Version(byHand+a.ifAbsent), "=", 0)).Then(mapped).Else(clientv3.OpGet(byHand + a.ifAbsent)).Commit()
			require.NoError(t, err, "%+v", a)
			want = resp.OpResponse()
		}
		require.Equal(t, outcome(t, want, byHand), outcome(t, got, ""), "%d: %+v", i, a)
	}
	resp, err := cli.Delete(ctx, inNS+"\x00", clientv3.WithRange(keyspace.End(inNS)))
	require.NoError(t, err)
	t.Logf("%d keys were left", resp.Deleted)
	require.Equal(t, outside, present(t, cli, root+"walled/"))
}
