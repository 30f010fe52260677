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
	"github.com/etcdkit/etcdkit/internal/retry"
)

const (
	maxUpdateConflicts  = 64 // conflicts before Update gives up
	conflictsPerBackoff = 3  // conflicts before a pause
	minConflictBackoff  = time.Millisecond
	maxConflictBackoff  = 32 * time.Millisecond
)

// Update calls f with the current entry of key, writes the value that f returns, and returns the
// resulting entry. f must have no side effects: it is called again if the key has changed
// meanwhile. f must not modify cur.Value. An Update of the same key inside f would wait for the
// outer one until the deadline.
//
// If f returns an error, Update returns it. If that error is [ErrSkipUpdate], Update instead
// returns the current entry and no error. Update only accepts an error of f if f was called with a
// state read after Update began; otherwise it reads the key and calls f again. If the key does not
// exist, Update returns [ErrNotFound], unless [WithUpsert] is given. The key keeps its lease unless
// [WithTTL], [WithLease] or [WithoutLease] is given. After 64 conflicts Update returns
// [ErrConflict].
//
// Update costs two RPCs. Concurrent updates of the same key through this store, or others derived
// from it, cost one RPC each: they are queued, and each starts from the value that the previous one
// wrote. After every 32 updates the key is read again, to give other processes a chance. A conflict
// with another client costs one more RPC; every third in a row costs two, after a pause. [WithTTL]
// may add a grant. For the outcome after a lost response, see [Store.Replace] and [Store.Create].
func (s *Store) Update(ctx context.Context, key string, f func(cur Entry[[]byte]) ([]byte, error), o ...UpdateOption) (e Entry[[]byte], err error) {
	ctx, running := s.observe(ctx, "update")
	defer func() { running.End(err, e.ModRevision) }()
	opts, err := updateOptions(o)
	abs, keyErr := s.writableKey(key)
	if err = errors.Join(keyErr, err); err == nil {
		err = s.limits.ops(1+opts.additionalOps(), s.limits.TxnOps)
	}
	if err == nil {
		err = s.checkFunc(ctx, f == nil)
	}
	if err != nil {
		return Entry[[]byte]{}, s.opError("update", key, err)
	}
	ctx, cancel := s.withDefaultTimeout(ctx)
	defer cancel()
	t, err := s.keyQueues.acquire(ctx, string(abs))
	if err != nil {
		return Entry[[]byte]{}, s.opError("update", key, s.waitError(ctx, "other updates of the key in this process", false))
	}
	u := update{
		Store: s, key: key, abs: abs, f: f, opts: opts, known: t.known, cur: t.cur,
		leases: callLeases{core: s.core, op: "update", key: string(abs)},
	}
	defer func() { s.keyQueues.release(string(abs), t, u.known, u.cur) }() // even if f panics
	e, err = u.run(ctx)
	if opts.ttlSet {
		leaseWrites := map[time.Duration]int{}
		if u.leaseUsed {
			leaseWrites[opts.ttl] = 1
		}
		u.leases.revokeUnused(ctx, err, leaseWrites)
	}
	return e, err
}

// update is the state of one Update that owns the queue of its key.
type update struct {
	*Store

	key  string
	abs  []byte
	f    func(cur Entry[[]byte]) ([]byte, error)
	opts options

	leases    callLeases
	leaseUsed bool // the last write uses the lease of WithTTL, if any

	known bool             // whether cur is a state that etcd has returned, now or recently
	fresh bool             // whether it was read after the update began
	cur   *mvccpb.KeyValue // nil: does not exist
}

func (u *update) run(ctx context.Context) (Entry[[]byte], error) {
	backoff := retry.Policy{BaseDelay: minConflictBackoff, MaxDelay: maxConflictBackoff}.Backoff()
	backoff.Reset()
	for n := range maxUpdateConflicts {
		v, err := u.newValue(ctx)
		if err != nil {
			return u.resultOf(err)
		}
		out, lease, err := u.attempt(ctx, v)
		if err != nil {
			u.known = false
			return Entry[[]byte]{}, err
		}
		if out.applied {
			return u.applied(v, lease, out), nil
		}
		u.keyQueues.conflicts.Add(1)
		u.known, u.fresh, u.cur = true, true, out.cur
		if n%conflictsPerBackoff < conflictsPerBackoff-1 {
			continue
		}
		u.known = false // outdated after the pause
		if err := retry.Sleep(ctx, backoff.NextBackOff()); err != nil {
			return Entry[[]byte]{}, u.opError("update", u.key, fmt.Errorf("%w: %w", ErrConflict, err))
		}
	}
	return Entry[[]byte]{}, u.opError("update", u.key, fmt.Errorf("%w: %d times in a row", ErrConflict, maxUpdateConflicts))
}

// newValue reads the key unless its state is known, and calls f. If f returns an error for a state
// that was not read by this update, newValue reads the key and calls f again.
func (u *update) newValue(ctx context.Context) ([]byte, error) {
	for {
		if !u.known {
			if err := u.readKey(ctx); err != nil {
				return nil, err
			}
		}
		v, err := u.callFunc()
		if err == nil || u.fresh {
			return v, err
		}
		u.known = false
	}
}

// readKey reads the key.
func (u *update) readKey(ctx context.Context) error {
	r, err := retry.Do(ctx, u.engine, u.readCall("update", u.key), func(ctx context.Context, _ bool) (*clientv3.GetResponse, error) {
		return u.get(ctx, u.abs)
	})
	if err != nil {
		return err
	}
	u.known, u.fresh, u.cur = true, true, nil
	if len(r.Kvs) > 0 {
		u.cur = r.Kvs[0]
	}
	return nil
}

// callFunc calls f with the known state.
func (u *update) callFunc() ([]byte, error) {
	if u.cur == nil && !u.opts.upsert {
		return nil, u.opError("update", u.key, ErrNotFound)
	}
	v, err := u.f(u.entry())
	if err == nil && u.opts.skipEqual && u.cur != nil && bytes.Equal(v, u.cur.GetValue()) {
		return nil, ErrSkipUpdate
	}
	return v, err
}

// entry returns the known state as an entry.
func (u *update) entry() Entry[[]byte] {
	if u.cur == nil {
		return Entry[[]byte]{Key: u.key}
	}
	return entryOf(u.cur, len(u.ns))
}

// resultOf returns the result of an update that ended with an error of f or of a read.
func (u *update) resultOf(err error) (Entry[[]byte], error) {
	if errors.Is(err, ErrSkipUpdate) {
		e := u.entry()
		e.Value = bytes.Clone(e.Value) // the next update may use the original
		return e, nil
	}
	if _, ours := errors.AsType[*errs.Error](err); ours {
		return Entry[[]byte]{}, err
	}
	return Entry[[]byte]{}, u.opError("update", u.key, err)
}

// attempt writes v over the known state, and returns the lease that it used.
func (u *update) attempt(ctx context.Context, v []byte) (out outcome, lease clientv3.LeaseID, err error) {
	if err := u.limits.request(len(u.abs) + len(v) + guardBytes(u.opts.guards)); err != nil {
		return out, 0, u.opError("update", u.key, err)
	}
	for first := true; ; first = false {
		if lease, err = u.lease(ctx); err != nil {
			return out, 0, err
		}
		u.leaseUsed = true
		out, err = u.write(ctx, u.mutation(ctx, v, lease))
		if err == nil || !first || !u.leases.dropMissing(err) {
			return out, lease, err
		}
	}
}

// lease returns the lease to attach the key to.
func (u *update) lease(ctx context.Context) (clientv3.LeaseID, error) {
	switch {
	case u.opts.ttlSet:
		return u.leases.lease(ctx, u.opts.ttl, 1)
	case u.opts.leaseSet:
		return u.opts.lease, nil
	case u.opts.noLease:
		return 0, nil
	}
	return clientv3.LeaseID(u.cur.GetLease()), nil
}

// mutation returns the write of v over the known state.
func (u *update) mutation(ctx context.Context, v []byte, lease clientv3.LeaseID) *mutation {
	cond := ifAbsent
	if u.cur != nil {
		cond = condition{mod: u.cur.GetModRevision()}
	}
	if v == nil {
		v = []byte{} // nil means delete
	}
	u.logWrite(ctx, "update", u.key, v)
	return &mutation{
		op: "update", key: string(u.abs), abs: u.abs, cond: cond.compares(u.abs), then: []clientv3.Op{putOp(u.abs, v, options{lease: lease})},
		baseRevision: cond.mod, value: v, guards: u.opts.guards, once: u.opts.once, hasLease: lease != 0,
	}
}

// applied stores the new state for the next update, and returns its entry.
func (u *update) applied(v []byte, lease clientv3.LeaseID, out outcome) Entry[[]byte] {
	state := &mvccpb.KeyValue{Key: u.abs, Value: bytes.Clone(v), CreateRevision: out.rev, ModRevision: out.rev, Version: 1, Lease: int64(lease)}
	if u.cur != nil {
		state.CreateRevision, state.Version = u.cur.GetCreateRevision(), u.cur.GetVersion()+1
	}
	u.known, u.cur = true, state
	e := u.entry()
	e.Value = v
	return e
}
