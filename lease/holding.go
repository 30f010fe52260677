package lease

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/kv"
)

// holding is what a [Key] has in etcd, as far as is known. It belongs to whoever has the key's turn.
type holding struct {
	current atomic.Pointer[Session] // may be looked at by anybody
	release func()
	leases  []clientv3.LeaseID // that the key was put on, the latest last

	kv      *mvccpb.KeyValue // nil: absent
	seen    int64            // the revision as of which that is so
	created int64            // the create revision of the key that is ours, in the time of the current session; 0 for none
	written bool             // a write of ours was applied, or may have been
	late    bool             // a creation may still be applied

	astray bool               // the key is not known to be what it is to be, and nothing else may happen to it
	wake   context.CancelFunc // ends the keeper's wait for that
}

// leasesMost is how many leases are remembered: a key can outlive the session that it was put on.
const leasesMost = 8

// own reports whether the key is ours: it is on one of our leases, or has the create revision that we gave it, whatever
// somebody has put into it since. The create revision counts as long as its session lasts: after a data wipe revisions begin
// anew, and somebody else's key can have the same one, but then the session's lease is gone too.
func (h *holding) own() bool {
	return h.created != 0 && h.kv.GetCreateRevision() == h.created || slices.Contains(h.leases, clientv3.LeaseID(h.kv.GetLease()))
}

// take takes the turn, which whoever has it gives back by receiving it.
func (k *Key) take(ctx context.Context, op string) error {
	if err := retry.ContextError(ctx); err != nil {
		return opError(op, k.name, err)
	}
	select {
	case k.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return opError(op, k.name, k.m.gaveUp(ctx))
	}
}

// settle takes the turn and restores the key.
func (k *Key) settle(ctx context.Context, op string, look bool) error {
	if err := k.take(ctx, op); err != nil {
		return err
	}
	defer func() { <-k.turn }()
	return k.restore(ctx, op, look)
}

// rounds bounds how often the key may be changed under our hands in one go.
const rounds = 8

// restore makes the key what it is to be. look says that what is known of it may be wrong. Whoever calls it has the
// turn.
func (k *Key) restore(ctx context.Context, op string, look bool) (err error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(k.ctx, func() { stop(context.Cause(k.ctx)) })()
	defer func() { k.note(err) }()
	if look {
		if err := k.look(ctx, op); err != nil {
			return err
		}
	}
	h := &k.held
	for range rounds {
		s, err := k.lease(ctx)
		if err != nil {
			return opError(op, k.name, err)
		}
		value := k.want()
		if h.kv != nil && !h.own() && !k.takeover {
			return opError(op, k.name, fmt.Errorf("%w: it was created at revision %d on lease %s",
				ErrExists, h.kv.GetCreateRevision(), named(clientv3.LeaseID(h.kv.GetLease()))))
		}
		if h.kv.GetLease() == int64(s.id) && h.own() && bytes.Equal(h.kv.GetValue(), value) {
			h.created = h.kv.GetCreateRevision()
			return nil
		}
		switch err := k.write(ctx, op, s, value); {
		case isNotFound(err):
			s.lose(ErrNotFound, nil) // which tells everybody on the lease
		case err != nil:
			return err
		}
	}
	return opError(op, k.name, fmt.Errorf("%w: %d times", kv.ErrConflict, rounds))
}

// want is the value that the key is to have.
func (k *Key) want() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.value
}

// note keeps what came of a restoration as the state. One that did not get to its end leaves work to the keeper. Whoever
// calls it has the turn.
func (k *Key) note(err error) {
	k.mu.Lock()
	k.state = Alive
	if err != nil {
		k.state = Suspended
	}
	k.mu.Unlock()
	h := &k.held
	h.astray = err != nil && !errors.Is(err, ErrExists) // theirs: until that changes
	if h.astray && h.wake != nil {
		h.wake()
	}
}

// lease returns the session that the key is to be on, a new one where the last was lost.
func (k *Key) lease(ctx context.Context) (*Session, error) {
	h := &k.held
	if s := h.current.Load(); s != nil && s.Err() == nil {
		return s, nil
	}
	k.letGo()
	s, err := k.m.poolOf(k.ttl).get(ctx, true)
	if err != nil {
		return nil, err
	}
	h.release = s.releaseOnce()
	h.current.Store(s)
	h.created = 0
	h.leases = append(h.leases, s.id)
	if more := len(h.leases) - leasesMost; more > 0 {
		h.leases = slices.Delete(h.leases, 0, more)
	}
	return s, nil
}

// letGo gives the place on the session back.
func (k *Key) letGo() {
	if k.held.release != nil {
		k.held.release()
		k.held.release = nil
	}
	k.held.current.Store(nil)
}

// look reads the key.
func (k *Key) look(ctx context.Context, op string) error {
	call := retry.Call{Pkg: "lease", Op: op, Key: k.name, Read: true}
	r, err := retry.Do(ctx, k.m.engine, call, func(ctx context.Context, _ bool) (*clientv3.GetResponse, error) {
		return k.m.kv.Get(ctx, k.abs)
	})
	if err == nil {
		k.learn(r.Kvs, r.Header.GetRevision())
	}
	return err
}

// learn takes in the state of the key as of a revision.
func (k *Key) learn(kvs []*mvccpb.KeyValue, rev int64) {
	k.held.kv, k.held.seen = nil, rev
	if len(kvs) > 0 {
		k.held.kv = kvs[0]
	}
}

// write puts the key if it still is what it was known to be, and learns what it is in any case. It may well be repeated:
// all that a second application could do is to make the key what it is to be.
func (k *Key) write(ctx context.Context, op string, s *Session, value []byte) error {
	h := &k.held
	absent := h.kv == nil
	is := clientv3.Compare(clientv3.ModRevision(k.abs), "=", h.kv.GetModRevision())
	put := clientv3.OpPut(k.abs, string(value), clientv3.WithLease(s.id))
	get := clientv3.OpGet(k.abs)
	call := retry.Call{Pkg: "lease", Op: op, Key: k.name, Guarded: true}
	failed := 0 // attempts
	err := k.m.engine.Do(ctx, call, func(ctx context.Context, ambiguous bool) error {
		r, err := k.m.kv.Txn(ctx).If(is).Then(put, get).Else(get).Commit()
		if err != nil {
			failed++
			return err
		}
		k.learn(r.Responses[len(r.Responses)-1].GetResponseRange().GetKvs(), r.Header.GetRevision())
		if r.Succeeded {
			h.created = h.kv.GetCreateRevision()
		}
		h.written = h.written || r.Succeeded || ambiguous
		if ambiguous && absent && (r.Succeeded || h.kv.GetLease() != int64(s.id) || failed > 1) {
			h.late = true // an attempt before this one may not have been applied yet: only one of them can have been
		}
		return nil
	})
	if errors.Is(err, errs.UnknownOutcome) {
		h.written = true
		h.late = h.late || absent // other writes depend on a state that will have passed once the key is deleted
	}
	return err
}

// remove deletes the key from etcd as far as it is on one of our leases.
func (k *Key) remove(ctx context.Context) error {
	h := &k.held
	if !h.written {
		return nil
	}
	on := []clientv3.LeaseID{h.leases[len(h.leases)-1]}
	if last := clientv3.LeaseID(h.kv.GetLease()); last != on[0] && slices.Contains(h.leases, last) {
		on = append(on, last)
	}
	return k.deleteOn(ctx, on...)
}

// deleteOn deletes the key if it is on one of the given leases.
func (k *Key) deleteOn(ctx context.Context, leases ...clientv3.LeaseID) error {
	call := retry.Call{Pkg: "lease", Op: "close key", Key: k.name, Guarded: true}
	for _, id := range leases {
		ours := clientv3.Compare(clientv3.LeaseValue(k.abs), "=", id)
		err := k.m.engine.Do(ctx, call, func(ctx context.Context, _ bool) error {
			_, err := k.m.kv.Txn(ctx).If(ours).Then(clientv3.OpDelete(k.abs)).Commit()
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
