package kv

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// Namespace returns a KV that sees and changes only the keys below dir, which it adds to every key that is sent and
// takes off every key that comes back.
//
// The namespace is a wall. "app" is "app/", so "app2/x" is outside; the ends of ranges stop at the end of the
// namespace, WithFromKey and WithPrefix on the empty key included; compares and the operations of transactions, also of
// nested ones, are mapped like everything else. An empty key, a range that ends before it begins and the zero Op are
// refused with [ErrInvalid] before anything is sent; a transaction reports that at Commit. A result from outside the
// namespace is an error. The library's own keys below dir are keys like others here. Compact has no keys and goes
// through.
//
// dir may lack its trailing slash, and "" is the whole key space. An illegal dir makes every call return [ErrInvalid].
// The Ops and Cmps that are given are not changed. next must hand each caller a response of its own, as client/v3
// does, because the keys are cut in place. Over client/v3, Get, Put and Delete cost no further allocation.
func Namespace(next clientv3.KV, dir string) clientv3.KV {
	home, err := keyspace.Dir(dir)
	if err == nil && next == nil {
		err = fmt.Errorf("%w: no KV to put into the namespace", errs.Invalid)
	}
	return &walled{KV: next, dir: home, end: []byte(keyspace.End(home)), err: err}
}

// walled is the KV of a namespace. It is immutable.
type walled struct {
	clientv3.KV // what it stands before

	dir string
	end []byte // the first key behind the namespace
	err error  // why it cannot be used

	seats sync.Pool
}

// A few options fit on the stack together with the one that goes before them.
const fewOptions = 8

// seat holds the key that an option of its own sets. Put before the caller's options, it lets those that look at the
// key see the relative one, without the copy that client/v3's constructors make of a key that comes as a string. A seat
// is free again as soon as the Op is made.
type seat struct {
	key []byte
	set clientv3.OpOption
}

// leave gives a seat back.
func (w *walled) leave(s *seat) {
	s.key = nil
	w.seats.Put(s)
}

// seat takes a free seat for key.
func (w *walled) seat(key []byte) *seat {
	s, ok := w.seats.Get().(*seat)
	if !ok {
		s = &seat{}
		s.set = func(op *clientv3.Op) {
			if op.IsGet() || op.IsPut() || op.IsDelete() { // and not one on which client/v3 tries what the options do
				op.WithKeyBytes(s.key)
			}
		}
	}
	s.key = key
	return s
}

// Get retrieves keys below the namespace.
func (w *walled) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	op, err := w.getOp(key, opts)
	if err != nil {
		return nil, fail("get", key, err)
	}
	r, err := w.KV.Do(ctx, op)
	if err != nil {
		return nil, err
	}
	resp := r.Get()
	if err := w.cutGet(resp); err != nil {
		return nil, foreign("get", key, err)
	}
	return resp, nil
}

// getOp is the absolute Op of a Get.
func (w *walled) getOp(key string, opts []clientv3.OpOption) (op clientv3.Op, err error) {
	abs := w.absolute(key)
	if len(opts) == 0 {
		op = clientv3.OpGet("")
		op.WithKeyBytes(abs[len(w.dir):])
	} else {
		var few [fewOptions]clientv3.OpOption
		s := w.seat(abs[len(w.dir):])
		op = clientv3.OpGet("", append(append(few[:0], s.set), opts...)...)
		w.leave(s)
	}
	err = w.place(&op, abs)
	return op, err
}

// Put writes a key below the namespace.
func (w *walled) Put(ctx context.Context, key, val string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	op, err := w.putOp(key, val, opts)
	if err != nil {
		return nil, fail("put", key, err)
	}
	r, err := w.KV.Do(ctx, op)
	if err != nil {
		return nil, err
	}
	resp := r.Put()
	if err := w.cutPut(resp); err != nil {
		return nil, foreign("put", key, err)
	}
	return resp, nil
}

// putOp is the absolute Op of a Put.
func (w *walled) putOp(key, val string, opts []clientv3.OpOption) (op clientv3.Op, err error) {
	abs := w.absolute(key)
	if len(opts) == 0 {
		op = clientv3.OpPut("", val)
		op.WithKeyBytes(abs[len(w.dir):])
	} else {
		var few [fewOptions]clientv3.OpOption
		s := w.seat(abs[len(w.dir):])
		op = clientv3.OpPut("", val, append(append(few[:0], s.set), opts...)...)
		w.leave(s)
	}
	err = w.place(&op, abs)
	return op, err
}

// Delete deletes keys below the namespace.
func (w *walled) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	op, err := w.deleteOp(key, opts)
	if err != nil {
		return nil, fail("delete", key, err)
	}
	r, err := w.KV.Do(ctx, op)
	if err != nil {
		return nil, err
	}
	resp := r.Del()
	if err := w.cutDelete(resp); err != nil {
		return nil, foreign("delete", key, err)
	}
	return resp, nil
}

// deleteOp is the absolute Op of a Delete.
func (w *walled) deleteOp(key string, opts []clientv3.OpOption) (op clientv3.Op, err error) {
	abs := w.absolute(key)
	if len(opts) == 0 {
		op = clientv3.OpDelete("")
		op.WithKeyBytes(abs[len(w.dir):])
	} else {
		var few [fewOptions]clientv3.OpOption
		s := w.seat(abs[len(w.dir):])
		op = clientv3.OpDelete("", append(append(few[:0], s.set), opts...)...)
		w.leave(s)
	}
	err = w.place(&op, abs)
	return op, err
}

// Do makes one operation below the namespace.
func (w *walled) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	m := mapper{walled: w}
	abs, err := m.op(op)
	if err != nil {
		return clientv3.OpResponse{}, fail(verb(op), string(op.KeyBytes()), err)
	}
	r, err := w.KV.Do(ctx, abs)
	if err != nil {
		return clientv3.OpResponse{}, err
	}
	switch {
	case op.IsGet():
		err = w.cutGet(r.Get())
	case op.IsPut():
		err = w.cutPut(r.Put())
	case op.IsDelete():
		err = w.cutDelete(r.Del())
	default:
		err = w.cutTxn(r.Txn())
	}
	if err != nil {
		return clientv3.OpResponse{}, foreign(verb(op), string(op.KeyBytes()), err)
	}
	return r, nil
}

// Compact goes through, unless the namespace itself is refused.
func (w *walled) Compact(ctx context.Context, rev int64, opts ...clientv3.CompactOption) (*clientv3.CompactResponse, error) {
	if w.err != nil {
		return nil, fail("compact", "", w.err)
	}
	return w.KV.Compact(ctx, rev, opts...)
}

// verb names an operation in errors.
func verb(op clientv3.Op) string {
	switch {
	case op.IsGet():
		return "get"
	case op.IsPut():
		return "put"
	case op.IsDelete():
		return "delete"
	case op.IsTxn():
		return "txn"
	}
	return "do"
}

// absolute is key with the namespace before it, and room for one byte more: the options for everything turn the empty
// key into the lowest one.
func (w *walled) absolute(key string) []byte {
	abs := make([]byte, len(w.dir)+len(key), len(w.dir)+len(key)+1)
	copy(abs[copy(abs, w.dir):], key)
	return abs
}

// place makes an Op whose key and end are relative an absolute one. abs is where the key goes; the key may already be
// there.
func (w *walled) place(op *clientv3.Op, abs []byte) error {
	key := op.KeyBytes()
	end, err := w.bound(key, op.RangeBytes())
	if err != nil {
		return err
	}
	op.WithRangeBytes(end)
	op.WithKeyBytes(append(abs[:len(w.dir)], key...))
	return nil
}

// bound gives the absolute end of the range that begins at the relative key, nil where it is no range, and refuses what
// must not be sent.
func (w *walled) bound(key, end []byte) ([]byte, error) {
	switch {
	case w.err != nil:
		return nil, w.err
	case len(key) == 0:
		return nil, fmt.Errorf("%w: key is empty", errs.Invalid)
	case len(end) == 0:
		return nil, nil
	case len(end) == 1 && end[0] == 0: // to the end of the key space, as far as there is one here
		return w.end, nil
	case bytes.Compare(end, key) <= 0:
		return nil, fmt.Errorf("%w: range ends at %s, before it begins", errs.Invalid, errs.Quote(string(end)))
	}
	abs := make([]byte, len(w.dir)+len(end))
	copy(abs[copy(abs, w.dir):], end)
	return abs, nil
}

// cut takes the namespace off one result.
func (w *walled) cut(kv *mvccpb.KeyValue) error {
	key := kv.GetKey()
	if len(key) <= len(w.dir) || string(key[:len(w.dir)]) != w.dir {
		return fmt.Errorf("the answer holds key %s, which is not below %s", errs.Quote(string(key)), errs.Quote(w.dir))
	}
	kv.Key = key[len(w.dir):]
	return nil
}
