package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/retry"
)

type keyValue = mvccpb.KeyValue

// Tx is a transaction in progress; see [Store.Transact]. It must only be used by the goroutine that
// runs the function. Once the function has returned, every method returns [ErrInvalid]. Keys are
// relative to the store.
//
// Methods return their errors. Errors other than [ErrNotFound] and [ErrDecode] are also recorded:
// later calls return the same error at once, and so does Transact, even if the function ignores it.
type Tx struct {
	t       *transaction
	ctx     context.Context //nolint:containedctx // valid during one call of the function
	attempt int
	readAt  int64                // the revision to read at, 0 for the current one
	rev     int64                // the revision of the reads, 0 before the first
	cached  map[string]*keyValue // the keys read, by absolute key; nil: does not exist

	// readRevisions holds the mod revisions of the keys that were read, 0 if they do not exist.
	readRevisions map[string]int64
	getKeys       []string // the keys that Get and GetMany have read, in order
	// extraKeys are those of getKeys that a refused request reads in addition to its key.
	extraKeys []string
	ranges    []keyspace.Range // the ranges that were listed
	writes    map[string]txWrite
	hooks     []txHook

	err  error // the first error that ends the transaction
	done bool
}

// txWrite is a write of a key.
type txWrite struct {
	value  []byte
	delete bool
	opts   options // ttl, lease and sameLease
}

// txHook notifies a cache of a write.
type txHook struct {
	key  string // relative to the handle of the cache
	call func(ctx context.Context, key string, rev int64)
}

// newTx returns the Tx for the next call of the function.
func (t *transaction) newTx(ctx context.Context, attempt int) *Tx {
	tx := &Tx{
		t: t, ctx: context.WithValue(ctx, txContext{t.core}, true), attempt: attempt,
		readRevisions: make(map[string]int64), writes: make(map[string]txWrite),
	}
	if snap := t.snapshot; snap != nil {
		tx.readAt, tx.cached = snap.rev, snap.keys
	} else {
		tx.cached = make(map[string]*keyValue)
	}
	return tx
}

// runFunc calls the function and returns its error, joined with the recorded one.
func (t *Tx) runFunc(f TxFunc) error {
	defer func() { t.done = true }()
	err := f(t.ctx, t)
	switch {
	case t.err == nil, errors.Is(err, t.err):
		return err
	case err == nil:
		return t.err
	}
	return errors.Join(err, t.err)
}

// Attempt returns how often the function has been called, including this call.
func (t *Tx) Attempt() int { return t.attempt }

// Revision returns the revision of all reads, or 0 before the first.
func (t *Tx) Revision() int64 { return t.rev }

// Get returns the entry of key, or [ErrNotFound], which also counts as a read. If the function has
// written key, Get returns what it has written, with revisions and version 0. The first read of a
// key costs one RPC.
func (t *Tx) Get(key string) (Entry[[]byte], error) { return t.get(t.store(), key) }

func (t *Tx) get(s *Store, key string) (Entry[[]byte], error) {
	if err := t.checkUsable(s); err != nil {
		return Entry[[]byte]{}, err
	}
	abs, err := s.absoluteKey(key)
	if err != nil {
		return Entry[[]byte]{}, t.recordError(s.opError("get", key, err))
	}
	e, found, err := t.entry(s, string(abs))
	switch {
	case err != nil:
		return Entry[[]byte]{}, t.recordError(err)
	case !found:
		return Entry[[]byte]{}, s.opError("get", key, ErrNotFound)
	}
	return e, nil
}

// GetMany returns the entries of keys. Keys that do not exist are missing from the map. It costs
// one RPC for every [Limits].TxnOps keys that were not read before.
func (t *Tx) GetMany(keys ...string) (map[string]Entry[[]byte], error) {
	return t.getMany(t.store(), keys)
}

func (t *Tx) getMany(s *Store, keys []string) (map[string]Entry[[]byte], error) {
	if err := t.checkUsable(s); err != nil {
		return nil, err
	}
	missing := make([]string, 0, len(keys))
	for _, key := range keys {
		abs, err := s.absoluteKey(key)
		if err != nil {
			return nil, t.recordError(s.opError("get many", key, err))
		}
		_, written := t.writes[string(abs)]
		if _, known := t.cached[string(abs)]; !known && !written {
			missing = append(missing, string(abs))
		}
	}
	if len(missing) > 0 {
		kvs, rev, err := s.readKeys(t.ctx, "get many", missing, t.readAt)
		if err != nil {
			return nil, t.recordError(err)
		}
		t.readAt = rev
		for i, abs := range missing {
			t.cached[abs] = kvs[i]
		}
	}
	out := make(map[string]Entry[[]byte], len(keys))
	for _, key := range keys {
		e, found, err := t.entry(s, s.ns+key)
		if err != nil {
			return nil, t.recordError(err)
		}
		if found {
			out[key] = e
		}
	}
	return out, nil
}

// entry returns the entry of an absolute key below s.
func (t *Tx) entry(s *Store, abs string) (e Entry[[]byte], found bool, err error) {
	if w, ok := t.writes[abs]; ok {
		return w.entry(abs[len(s.ns):]), !w.delete, nil
	}
	kv, ok := t.cached[abs]
	if !ok {
		kv, err = t.fetch(s, abs)
		if err != nil {
			return e, false, err
		}
	}
	t.rev = t.readAt
	if _, ok := t.readRevisions[abs]; !ok {
		t.readRevisions[abs] = kv.GetModRevision()
		t.getKeys = append(t.getKeys, abs)
	}
	if kv == nil {
		return e, false, nil
	}
	e = entryOf(kv, len(s.ns))
	e.Value = bytes.Clone(e.Value) // the function may modify it
	return e, true, nil
}

// fetch reads a key at the revision of the transaction.
func (t *Tx) fetch(s *Store, abs string) (*keyValue, error) {
	call := retry.Call{Pkg: "kv", Op: "get", Key: abs, Read: true}
	r, err := retry.Do(t.ctx, s.engine, call, func(ctx context.Context, _ bool) (*clientv3.GetResponse, error) {
		return s.get(ctx, []byte(abs), clientv3.WithRev(t.readAt))
	})
	if err != nil {
		return nil, err
	}
	if t.readAt == 0 {
		t.readAt = r.Header.GetRevision()
	}
	var kv *keyValue
	if len(r.Kvs) > 0 {
		kv = r.Kvs[0]
	}
	t.cached[abs] = kv
	return kv, nil
}

// entry returns the write as an entry.
func (w *txWrite) entry(key string) Entry[[]byte] {
	return Entry[[]byte]{Key: key, Value: bytes.Clone(w.value), Lease: w.opts.lease}
}

// Put writes key when the transaction is committed. It sends nothing. As with [Store.Put], the key
// is detached from its lease unless an option says otherwise. [WithTTL] grants one lease for all
// puts of the transaction with the same TTL.
func (t *Tx) Put(key string, value []byte, o ...LeaseOption) error {
	return t.put(t.store(), key, value, o)
}

func (t *Tx) put(s *Store, key string, value []byte, opts []LeaseOption) error {
	if err := t.checkUsable(s); err != nil {
		return err
	}
	o, optsErr := collect(opts, LeaseOption.put, true)
	abs, err := s.writableKey(key)
	if err = errors.Join(err, optsErr); err == nil {
		err = s.limits.request(len(abs) + len(value))
	}
	if err != nil {
		return t.recordError(s.opError("put", key, err))
	}
	if before, ok := t.writes[string(abs)]; ok && o.sameLease {
		o = before.opts // a deleted key has no lease
	}
	t.writes[string(abs)] = txWrite{value: bytes.Clone(value), opts: o}
	return nil
}

// Delete deletes key when the transaction is committed. It sends nothing. The key need not exist.
func (t *Tx) Delete(key string) error { return t.delete(t.store(), key) }

func (t *Tx) delete(s *Store, key string) error {
	if err := t.checkUsable(s); err != nil {
		return err
	}
	abs, err := s.writableKey(key)
	if err != nil {
		return t.recordError(s.opError("delete", key, err))
	}
	t.writes[string(abs)] = txWrite{delete: true}
	return nil
}

// store returns the store of the transaction. It returns an unusable store for the zero Tx and nil.
func (t *Tx) store() *Store {
	if t == nil || t.t == nil {
		return invalidStore()
	}
	return t.t.Store
}

// checkUsable returns why the transaction cannot be used, or nil. s must be the store of the
// transaction or one derived from the same store.
func (t *Tx) checkUsable(s *Store) error {
	switch {
	case t == nil || t.t == nil:
		return opError("transact", "", fmt.Errorf("%w: a Tx that Transact has not made", errs.Invalid))
	case t.done:
		return t.t.opError("transact", "", fmt.Errorf("%w: the transaction is over", errs.Invalid))
	case t.err != nil:
		return t.err
	case s.core != t.t.core:
		return t.recordError(s.opError("transact", "", fmt.Errorf("%w: a handle of another store than the transaction's", errs.Invalid)))
	}
	return nil
}

// recordError records an error that ends the transaction, and returns it.
func (t *Tx) recordError(err error) error {
	if t.err == nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrDecode) {
		t.err = err
	}
	return err
}

// ttls returns the number of writes for each TTL in the transaction.
func (t *Tx) ttls() map[time.Duration]int {
	used := make(map[time.Duration]int)
	for _, w := range t.writes {
		if w.opts.ttlSet {
			used[w.opts.ttl]++
		}
	}
	return used
}

// notify calls the hooks with the revision of the transaction, or 0 if its outcome is unknown.
func (t *Tx) notify(ctx context.Context, rev int64) {
	for _, h := range t.hooks {
		h.call(ctx, h.key, rev)
	}
}
