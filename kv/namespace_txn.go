package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Txn begins a transaction below the namespace. What cannot be mapped is reported by Commit, with nothing sent.
func (w *walled) Txn(ctx context.Context) clientv3.Txn {
	t := &walledTxn{}
	t.walled = w
	if w.err != nil {
		t.err = fail("txn", "", w.err)
		return t
	}
	t.last = t.fewBytes[:0]
	t.free = t.fewOps[:0]
	t.Txn = w.KV.Txn(ctx)
	return t
}

// walledTxn is a transaction of a namespace. Small ones find room in it for all that has to be made anew: a
// compare-and-swap is one compare, one put and one get of one key.
type walledTxn struct {
	clientv3.Txn
	mapper

	err error // what Commit will say

	fewBytes [64]byte
	fewCmps  [1]clientv3.Cmp
	fewOps   [2]clientv3.Op
}

// If takes the compares.
func (t *walledTxn) If(cs ...clientv3.Cmp) clientv3.Txn {
	if t.err != nil {
		return t
	}
	out := t.fewCmps[:0]
	for i := range cs {
		abs, err := t.cmp(cs[i])
		if err != nil {
			t.err = fail("txn", string(cs[i].KeyBytes()), fmt.Errorf("compare: %w", err))
			return t
		}
		out = append(out, abs)
	}
	t.Txn = t.Txn.If(out...)
	return t
}

// Then takes the operations for when the compares hold.
func (t *walledTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	if abs := t.branch(ops); t.err == nil {
		t.Txn = t.Txn.Then(abs...)
	}
	return t
}

// Else takes the operations for when they do not.
func (t *walledTxn) Else(ops ...clientv3.Op) clientv3.Txn {
	if abs := t.branch(ops); t.err == nil {
		t.Txn = t.Txn.Else(abs...)
	}
	return t
}

// Commit sends the transaction.
func (t *walledTxn) Commit() (*clientv3.TxnResponse, error) {
	if t.err != nil {
		return nil, t.err
	}
	resp, err := t.Txn.Commit()
	if err != nil {
		return nil, err
	}
	if err := t.cutTxn(resp); err != nil {
		return nil, foreign("txn", "", err)
	}
	return resp, nil
}

// branch maps the operations of one branch, and remembers the first that cannot be.
func (t *walledTxn) branch(ops []clientv3.Op) []clientv3.Op {
	if t.err != nil {
		return nil
	}
	out, at, err := t.ops(ops)
	if err != nil {
		t.err = fail("txn", string(ops[at].KeyBytes()), fmt.Errorf("%s: %w", verb(ops[at]), err))
	}
	return out
}

// mapper makes what is relative to a namespace absolute. Keys that follow each other and are equal share their bytes,
// as they do in a compare-and-swap.
type mapper struct {
	*walled

	last []byte        // the last key that was made, or room for the first
	free []clientv3.Op // room for operations
}

// key is the absolute form of a relative key.
func (m *mapper) key(rel []byte) []byte {
	if len(m.last) > 0 && bytes.Equal(m.last[len(m.dir):], rel) {
		return m.last
	}
	room := m.last
	if len(room) > 0 || cap(room) < len(m.dir)+len(rel) {
		room = make([]byte, 0, len(m.dir)+len(rel))
	}
	m.last = slices.Clip(append(append(room, m.dir...), rel...))
	return m.last
}

// op is the absolute form of an Op.
func (m *mapper) op(op clientv3.Op) (clientv3.Op, error) {
	switch {
	case op.IsTxn():
		return m.txn(op)
	case !op.IsGet() && !op.IsPut() && !op.IsDelete():
		return op, fmt.Errorf("%w: the operation is none: it was made by no constructor", errs.Invalid)
	}
	end, err := m.bound(op.KeyBytes(), op.RangeBytes())
	if err != nil {
		return op, err
	}
	op.WithKeyBytes(m.key(op.KeyBytes()))
	op.WithRangeBytes(end)
	return op, nil
}

// ops is the absolute form of the operations of a branch; at tells the one that has none.
func (m *mapper) ops(ops []clientv3.Op) (abs []clientv3.Op, at int, err error) {
	abs = slices.Grow(m.free, len(ops))
	for i := range ops {
		op, err := m.op(ops[i])
		if err != nil {
			return nil, i, err
		}
		abs = append(abs, op)
	}
	m.free = abs[len(abs):]
	return slices.Clip(abs), 0, nil
}

// txn is the absolute form of a transaction in the form of an Op.
func (m *mapper) txn(op clientv3.Op) (clientv3.Op, error) {
	if m.err != nil {
		return op, m.err
	}
	cmps, thenOps, elseOps := op.Txn()
	thenAbs, at, err := m.ops(thenOps)
	if err != nil {
		return op, fmt.Errorf("%s %s: %w", verb(thenOps[at]), errs.Quote(string(thenOps[at].KeyBytes())), err)
	}
	elseAbs, at, err := m.ops(elseOps)
	if err != nil {
		return op, fmt.Errorf("%s %s: %w", verb(elseOps[at]), errs.Quote(string(elseOps[at].KeyBytes())), err)
	}
	abs := clientv3.OpTxn(cmps, thenAbs, elseAbs)
	cmps, _, _ = abs.Txn() // OpTxn has made copies
	for i := range cmps {
		end, err := m.bound(cmps[i].KeyBytes(), cmps[i].GetCompare().GetRangeEnd())
		if err != nil {
			return op, fmt.Errorf("compare %s: %w", errs.Quote(string(cmps[i].KeyBytes())), err)
		}
		cmps[i].WithKeyBytes(m.key(cmps[i].KeyBytes()))
		cmps[i].GetCompare().RangeEnd = end
	}
	return abs, nil
}

// cmp is the absolute form of a compare. It shares with it what it does not change: the value that is compared.
func (m *mapper) cmp(rel clientv3.Cmp) (clientv3.Cmp, error) {
	from := rel.GetCompare()
	end, err := m.bound(from.GetKey(), from.GetRangeEnd())
	if err != nil {
		return rel, err
	}
	var abs clientv3.Cmp
	to := abs.GetCompare() // made by the call
	to.Result, to.Target, to.TargetUnion = from.GetResult(), from.GetTarget(), from.GetTargetUnion()
	to.Key, to.RangeEnd = m.key(from.GetKey()), end
	return abs, nil
}

// errNoAnswer is a response of the wrong kind, or none.
var errNoAnswer = errors.New("the answer is not one to this operation")

// foreign is the error of an operation that was made and whose answer cannot be right.
func foreign(op, key string, err error) error {
	if !strings.HasPrefix(op, "get") {
		err = fmt.Errorf("%w: %w", errs.UnknownOutcome, err) // it may well have been applied
	}
	return &errs.Error{Pkg: "kv", Op: op, Key: key, Err: err}
}

func (w *walled) cutGet(resp *clientv3.GetResponse) error {
	if resp == nil {
		return errNoAnswer
	}
	return w.cutAll(resp.Kvs)
}

func (w *walled) cutPut(resp *clientv3.PutResponse) error {
	switch {
	case resp == nil:
		return errNoAnswer
	case resp.PrevKv == nil:
		return nil
	}
	return w.cut(resp.PrevKv)
}

func (w *walled) cutDelete(resp *clientv3.DeleteResponse) error {
	if resp == nil {
		return errNoAnswer
	}
	return w.cutAll(resp.PrevKvs)
}

func (w *walled) cutAll(kvs []*mvccpb.KeyValue) error {
	for _, kv := range kvs {
		if err := w.cut(kv); err != nil {
			return err
		}
	}
	return nil
}

// cutTxn takes the namespace off the results of a transaction and of those in it.
func (w *walled) cutTxn(resp *clientv3.TxnResponse) error {
	if resp == nil {
		return errNoAnswer
	}
	for _, r := range resp.Responses {
		var err error
		switch r := r.GetResponse().(type) {
		case *pb.ResponseOp_ResponseRange:
			err = w.cutGet((*clientv3.GetResponse)(r.ResponseRange))
		case *pb.ResponseOp_ResponsePut:
			err = w.cutPut((*clientv3.PutResponse)(r.ResponsePut))
		case *pb.ResponseOp_ResponseDeleteRange:
			err = w.cutDelete((*clientv3.DeleteResponse)(r.ResponseDeleteRange))
		case *pb.ResponseOp_ResponseTxn:
			err = w.cutTxn((*clientv3.TxnResponse)(r.ResponseTxn))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
