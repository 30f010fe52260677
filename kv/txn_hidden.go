package kv

import (
	"bytes"
	"cmp"
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// A transaction leaves the library's own keys out of its gets. A get that reaches across them
// becomes a nested transaction of two gets, whose responses are merged.

// visibleParts returns the parts of a relative get's range before and after the library's own
// keys. ok is false if the range contains none of these keys, or nothing else.
func visibleParts(op clientv3.Op) (parts []keyspace.Range, ok bool) {
	hidden, r := keyspace.Under(keyspace.Hidden), opRange(op)
	if !op.IsGet() || len(op.KeyBytes()) == 0 || r.Intersect(hidden).Empty() {
		return nil, false
	}
	parts = intersect([]keyspace.Range{{From: keyspace.First, To: hidden.From}, {From: hidden.To, To: keyspace.ToEnd}}, r)
	return parts, len(parts) > 0
}

// splitGets returns ops with gets that leave out the library's own keys.
func splitGets(ops []clientv3.Op) []clientv3.Op {
	out := make([]clientv3.Op, len(ops))
	for i := range ops {
		out[i] = splitGet(ops[i])
	}
	return out
}

func splitGet(op clientv3.Op) clientv3.Op {
	if op.IsTxn() {
		cmps, then, orElse := op.Txn()
		return clientv3.OpTxn(cmps, splitGets(then), splitGets(orElse))
	}
	parts, ok := visibleParts(op)
	if !ok {
		return op
	}
	if req := rangeRequest(op); req == nil || unsortable(req) {
		return op
	}
	gets := make([]clientv3.Op, len(parts))
	for i, r := range parts {
		gets[i] = op
		gets[i].WithKeyBytes([]byte(r.From))
		gets[i].WithRangeBytes([]byte(r.To))
	}
	if len(gets) == 1 {
		return gets[0]
	}
	return clientv3.OpTxn(nil, gets, nil)
}

// mergeGets converts the response to splitGets(then) or splitGets(orElse) to one to then or orElse.
func mergeGets(then, orElse []clientv3.Op, resp *pb.TxnResponse) {
	ops := then
	if !resp.GetSucceeded() {
		ops = orElse
	}
	for i, r := range resp.GetResponses() {
		nested := r.GetResponseTxn()
		switch {
		case nested == nil || i >= len(ops):
		case ops[i].IsTxn():
			_, then, orElse := ops[i].Txn()
			mergeGets(then, orElse, nested)
		case len(nested.GetResponses()) == 2:
			before, after := nested.GetResponses()[0].GetResponseRange(), nested.GetResponses()[1].GetResponseRange()
			r.Response = &pb.ResponseOp_ResponseRange{ResponseRange: mergeRanges(rangeRequest(ops[i]), before, after)}
		}
	}
}

// mergeRanges merges the responses to the two parts of a range in the same way as the server sorts
// and limits the whole range.
func mergeRanges(req *pb.RangeRequest, before, after *pb.RangeResponse) *pb.RangeResponse {
	out := &pb.RangeResponse{
		Header: before.GetHeader(),
		Kvs:    slices.Concat(before.GetKvs(), after.GetKvs()),
		More:   before.GetMore() || after.GetMore(),
		Count:  before.GetCount() + after.GetCount(),
	}
	descend := req.GetSortOrder() == pb.RangeRequest_DESCEND
	if descend || req.GetSortTarget() != pb.RangeRequest_KEY {
		slices.SortStableFunc(out.Kvs, func(a, b *mvccpb.KeyValue) int {
			if descend {
				a, b = b, a
			}
			return compareBy(req.GetSortTarget(), a, b)
		})
	}
	if limit := req.GetLimit(); limit > 0 && int64(len(out.Kvs)) > limit {
		out.Kvs, out.More = out.Kvs[:limit], true
	}
	return out
}

func compareBy(target pb.RangeRequest_SortTarget, a, b *mvccpb.KeyValue) int {
	switch target {
	case pb.RangeRequest_VERSION:
		return cmp.Compare(a.GetVersion(), b.GetVersion())
	case pb.RangeRequest_CREATE:
		return cmp.Compare(a.GetCreateRevision(), b.GetCreateRevision())
	case pb.RangeRequest_MOD:
		return cmp.Compare(a.GetModRevision(), b.GetModRevision())
	case pb.RangeRequest_VALUE:
		return bytes.Compare(a.GetValue(), b.GetValue())
	case pb.RangeRequest_KEY:
	}
	return bytes.Compare(a.GetKey(), b.GetKey())
}

// unsortable reports whether the responses to two parts of a range cannot be merged in order,
// because they are sorted by values that they do not contain. Such a response includes the hidden
// keys.
func unsortable(req *pb.RangeRequest) bool {
	return req.GetKeysOnly() && req.GetSortTarget() == pb.RangeRequest_VALUE
}

// rangeRequest returns the request that client/v3 sends for a get, or nil if it refuses the get. An
// Op does not expose its sort order.
func rangeRequest(op clientv3.Op) *pb.RangeRequest {
	var c rangeCapture
	_, _ = clientv3.NewKVFromKVClient(&c, nil).Do(context.Background(), op) //nolint:forbidigo // nothing is sent
	return c.req
}

// rangeCapture stores the request that it receives.
type rangeCapture struct {
	pb.KVClient

	req *pb.RangeRequest
}

// Range stores the request.
func (c *rangeCapture) Range(_ context.Context, in *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	c.req = in
	return &pb.RangeResponse{}, nil
}
