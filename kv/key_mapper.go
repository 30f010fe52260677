package kv

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// emptyKeyError is the error for an empty key. It also matches etcd's own error for empty keys, so
// that programs written for client/v3 recognize it.
type emptyKeyError struct{}

// Error returns the text of ErrInvalid.
func (emptyKeyError) Error() string { return errs.Invalid.Error() + ": key is empty" }

// Unwrap returns the errors that it matches.
func (emptyKeyError) Unwrap() []error { return []error{errs.Invalid, rpctypes.ErrEmptyKey} }

// keyMapper maps keys between a namespace and the whole key space. It is immutable. Except for
// values, its results share no memory with its arguments.
type keyMapper struct {
	dir string
	end []byte // the first key after the namespace
	err error  // why the namespace is invalid, or nil
}

func newKeyMapper(dir string) keyMapper {
	ns, err := keyspace.Dir(dir)
	return keyMapper{dir: ns, end: []byte(keyspace.End(ns)), err: err}
}

// absoluteKey returns the absolute form of a relative key.
func (m keyMapper) absoluteKey(rel []byte) []byte {
	abs := make([]byte, 0, len(m.dir)+len(rel))
	return append(append(abs, m.dir...), rel...)
}

// absoluteRange returns the absolute form of a relative key and range end. absEnd is nil if there
// is no range end.
func (m keyMapper) absoluteRange(key, end []byte) (absKey, absEnd []byte, err error) {
	switch {
	case m.err != nil:
		return nil, nil, m.err
	case len(key) == 0:
		return nil, nil, emptyKeyError{}
	case len(end) == 0:
		return m.absoluteKey(key), nil, nil
	case string(end) == keyspace.ToEnd:
		return m.absoluteKey(key), bytes.Clone(m.end), nil
	case bytes.Compare(end, key) <= 0:
		return nil, nil, fmt.Errorf("%w: range ends at %s, before it begins", errs.Invalid, errs.Quote(string(end)))
	}
	return m.absoluteKey(key), m.absoluteKey(end), nil
}

// absoluteOp returns the absolute form of op.
func (m keyMapper) absoluteOp(op clientv3.Op) (clientv3.Op, error) {
	switch {
	case op.IsTxn():
		return m.absoluteTxn(op)
	case !op.IsGet() && !op.IsPut() && !op.IsDelete():
		return op, fmt.Errorf("%w: the zero Op is no operation", errs.Invalid)
	}
	key, end, err := m.absoluteRange(op.KeyBytes(), op.RangeBytes())
	if err != nil {
		return op, err
	}
	op.WithKeyBytes(key)
	op.WithRangeBytes(end)
	return op, nil
}

// absoluteTxn returns the absolute form of a transaction.
func (m keyMapper) absoluteTxn(op clientv3.Op) (clientv3.Op, error) {
	if m.err != nil {
		return op, m.err
	}
	cmps, thenOps, elseOps := op.Txn()
	cmps, err := m.absoluteCmps(cmps)
	if err != nil {
		return op, err
	}
	thenOps, err = m.absoluteOps(thenOps)
	if err != nil {
		return op, err
	}
	elseOps, err = m.absoluteOps(elseOps)
	if err != nil {
		return op, err
	}
	return clientv3.OpTxn(cmps, thenOps, elseOps), nil
}

// absoluteOps returns the absolute form of the operations of a branch.
func (m keyMapper) absoluteOps(rel []clientv3.Op) ([]clientv3.Op, error) {
	abs := make([]clientv3.Op, len(rel))
	for i := range rel {
		op, err := m.absoluteOp(rel[i])
		if err != nil {
			return nil, inTxn(verb(rel[i]), rel[i].KeyBytes(), err)
		}
		abs[i] = op
	}
	return abs, nil
}

// absoluteCmps returns the absolute form of comparisons.
func (m keyMapper) absoluteCmps(rel []clientv3.Cmp) ([]clientv3.Cmp, error) {
	abs := make([]clientv3.Cmp, len(rel))
	for i := range rel {
		key, end, err := m.absoluteRange(rel[i].KeyBytes(), rel[i].GetCompare().GetRangeEnd())
		if err != nil {
			return nil, inTxn("compare", rel[i].KeyBytes(), err)
		}
		abs[i] = rel[i].Clone()
		abs[i].WithKeyBytes(key)
		abs[i].GetCompare().RangeEnd = end
	}
	return abs, nil
}

// inTxn adds to err which part of a transaction it is about.
func inTxn(what string, key []byte, err error) error {
	if len(key) == 0 {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s %s: %w", what, errs.Quote(string(key)), err)
}

// errWrongResponse means that a response is missing or of the wrong kind.
var errWrongResponse = errors.New("the response does not match the operation")

// badResponse returns the error for an operation that was sent and got an invalid response.
func badResponse(op, key string, err error) error {
	if !strings.HasPrefix(op, "get") {
		err = fmt.Errorf("%w: %w", errs.UnknownOutcome, err) // the write may have been applied
	}
	return &errs.Error{Pkg: "kv", Op: op, Key: key, Err: err}
}

// trimGet removes the namespace from the keys of a response. The other trim methods do the same.
func (m keyMapper) trimGet(resp *clientv3.GetResponse) error {
	if resp == nil {
		return errWrongResponse
	}
	return m.trimAll(resp.Kvs)
}

func (m keyMapper) trimPut(resp *clientv3.PutResponse) error {
	switch {
	case resp == nil:
		return errWrongResponse
	case resp.PrevKv == nil:
		return nil
	}
	return m.trim(resp.PrevKv)
}

func (m keyMapper) trimDelete(resp *clientv3.DeleteResponse) error {
	if resp == nil {
		return errWrongResponse
	}
	return m.trimAll(resp.PrevKvs)
}

// trimTxn also trims nested transactions.
func (m keyMapper) trimTxn(resp *clientv3.TxnResponse) error {
	if resp == nil {
		return errWrongResponse
	}
	for _, r := range resp.Responses {
		var err error
		switch r := r.GetResponse().(type) {
		case *pb.ResponseOp_ResponseRange:
			err = m.trimGet((*clientv3.GetResponse)(r.ResponseRange))
		case *pb.ResponseOp_ResponsePut:
			err = m.trimPut((*clientv3.PutResponse)(r.ResponsePut))
		case *pb.ResponseOp_ResponseDeleteRange:
			err = m.trimDelete((*clientv3.DeleteResponse)(r.ResponseDeleteRange))
		case *pb.ResponseOp_ResponseTxn:
			err = m.trimTxn((*clientv3.TxnResponse)(r.ResponseTxn))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m keyMapper) trimAll(kvs []*mvccpb.KeyValue) error {
	for _, kv := range kvs {
		if err := m.trim(kv); err != nil {
			return err
		}
	}
	return nil
}

func (m keyMapper) trim(kv *mvccpb.KeyValue) error {
	key := kv.GetKey()
	if len(key) <= len(m.dir) || string(key[:len(m.dir)]) != m.dir {
		return fmt.Errorf("the response holds key %s, which is not below %s", errs.Quote(string(key)), errs.Quote(m.dir))
	}
	kv.Key = key[len(m.dir):]
	return nil
}
