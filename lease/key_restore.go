package lease

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"
)

// acquire acquires k.sem. The caller releases it by receiving from it.
func (k *Key) acquire(ctx context.Context, op string) error {
	if err := retry.ContextError(ctx); err != nil {
		return opError(op, k.name, err)
	}
	select {
	case k.sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return opError(op, k.name, k.m.waitError(ctx))
	}
}

// reconcile acquires k.sem and restores the key.
func (k *Key) reconcile(ctx context.Context, op string, reread bool) error {
	if err := k.acquire(ctx, op); err != nil {
		return err
	}
	defer func() { <-k.sem }()
	return k.restore(ctx, op, reread)
}

// maxRounds is how many times one restore tries to write a key that others keep changing.
const maxRounds = 8

// restore creates the key or changes it to its desired state. If reread is set, it first reads the
// key from etcd, because the known state may be wrong. It must be called with k.sem held.
func (k *Key) restore(ctx context.Context, op string, reread bool) (err error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(k.ctx, func() { stop(context.Cause(k.ctx)) })()
	defer func() { k.recordResult(err) }()
	if reread {
		if err := k.read(ctx, op); err != nil {
			return err
		}
	}
	ks := &k.known
	for range maxRounds {
		s, err := k.ensureSession(ctx)
		if err != nil {
			return opError(op, k.name, err)
		}
		value := k.desiredValue()
		if ks.kv != nil && !ks.isOurs() && !k.takeover {
			return opError(op, k.name, fmt.Errorf("%w: it was created at revision %d on lease %s",
				ErrExists, ks.kv.GetCreateRevision(), wire.FormatLeaseID(clientv3.LeaseID(ks.kv.GetLease()))))
		}
		if ks.kv.GetLease() == int64(s.id) && ks.isOurs() && bytes.Equal(ks.kv.GetValue(), value) {
			ks.createRevision = ks.kv.GetCreateRevision()
			return nil
		}
		switch err := k.write(ctx, op, s, value); {
		case isNotFound(err):
			s.lose(ErrNotFound, nil) // ends the session for all its users
		case err != nil:
			return err
		}
	}
	return opError(op, k.name, fmt.Errorf("%w: %d times", kv.ErrConflict, maxRounds))
}

// desiredValue returns the value that the key should have.
func (k *Key) desiredValue() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.value
}

// recordResult sets the state from the result of a restore. If the restore failed, it marks the key
// as drifted, so that reconcileLoop tries again. It must be called with k.sem held.
func (k *Key) recordResult(err error) {
	k.mu.Lock()
	k.state = Alive
	if err != nil {
		k.state = Suspended
	}
	k.mu.Unlock()
	ks := &k.known
	// Another owner has it: wait for the next change.
	ks.drifted = err != nil && !errors.Is(err, ErrExists)
	if ks.drifted && ks.cancelWait != nil {
		ks.cancelWait()
	}
}

// ensureSession returns the session for the key. If the last one was lost, it acquires another one.
func (k *Key) ensureSession(ctx context.Context) (*Session, error) {
	ks := &k.known
	if s := ks.session.Load(); s != nil && s.Err() == nil {
		return s, nil
	}
	k.releaseSession()
	s, err := k.m.poolFor(k.ttl).get(ctx, true)
	if err != nil {
		return nil, err
	}
	ks.release = s.releaseOnce()
	ks.session.Store(s)
	ks.createRevision = 0
	ks.leases = append(ks.leases, s.id)
	if excess := len(ks.leases) - maxLeases; excess > 0 {
		ks.leases = slices.Delete(ks.leases, 0, excess)
	}
	return s, nil
}

// releaseSession releases the key's use of its session.
func (k *Key) releaseSession() {
	if k.known.release != nil {
		k.known.release()
		k.known.release = nil
	}
	k.known.session.Store(nil)
}

// read reads the key from etcd into k.known.
func (k *Key) read(ctx context.Context, op string) error {
	call := retry.Call{Pkg: "lease", Op: op, Key: k.name, Read: true}
	r, err := retry.Do(ctx, k.m.engine, call, func(ctx context.Context, _ bool) (*clientv3.GetResponse, error) {
		return k.m.kv.Get(ctx, k.fullKey)
	})
	if err == nil {
		k.setKnown(r.Kvs, r.Header.GetRevision())
	}
	return err
}

// setKnown records the state of the key as of revision rev.
func (k *Key) setKnown(kvs []*mvccpb.KeyValue, rev int64) {
	k.known.kv, k.known.revision = nil, rev
	if len(kvs) > 0 {
		k.known.kv = kvs[0]
	}
}

// write puts the key if it has not changed since it was last read, and records the resulting state
// in either case. It is safe to repeat: a second execution can only bring the key to its desired
// state.
func (k *Key) write(ctx context.Context, op string, s *Session, value []byte) error {
	ks := &k.known
	absent := ks.kv == nil
	unchanged := clientv3.Compare(clientv3.ModRevision(k.fullKey), "=", ks.kv.GetModRevision())
	put := clientv3.OpPut(k.fullKey, string(value), clientv3.WithLease(s.id))
	get := clientv3.OpGet(k.fullKey)
	call := retry.Call{Pkg: "lease", Op: op, Key: k.name, AtMostOnce: true}
	failed := 0 // number of failed attempts
	err := k.m.engine.Do(ctx, call, func(ctx context.Context, ambiguous bool) error {
		r, err := k.m.kv.Txn(ctx).If(unchanged).Then(put, get).Else(get).Commit()
		if err != nil {
			failed++
			return err
		}
		k.setKnown(r.Responses[len(r.Responses)-1].GetResponseRange().GetKvs(), r.Header.GetRevision())
		if r.Succeeded {
			ks.createRevision = ks.kv.GetCreateRevision()
		}
		ks.maybeWritten = ks.maybeWritten || r.Succeeded || ambiguous
		if ambiguous && absent && (r.Succeeded || ks.kv.GetLease() != int64(s.id) || failed > 1) {
			// An earlier attempt may still be applied; at most one of them can have been.
			ks.maybeCreatedLate = true
		}
		return nil
	})
	if errors.Is(err, errs.UnknownOutcome) {
		ks.maybeWritten = true
		// Any other write is conditional on a revision that no longer holds once the key is
		// deleted.
		ks.maybeCreatedLate = ks.maybeCreatedLate || absent
	}
	return err
}

// maxDeleteConflicts is the number of changes of the key by others after which deleteOurs gives up.
const maxDeleteConflicts = 8

// deleteOurs deletes the key from etcd if it is on one of our leases. It must be called with k.sem
// held. It costs one RPC, and another one each time that it finds the key changed, by a write of
// unknown outcome or by a third party.
//
// A delete may be applied late, when the name is in use again, on the same lease. It therefore
// compares the mod revision, which no later write of the key has. A key that is not known to be on
// one of our leases is compared as absent: the request then shows what there is.
func (k *Key) deleteOurs(ctx context.Context) error {
	ks := &k.known
	if !ks.maybeWritten {
		return nil
	}
	call := retry.Call{Pkg: "lease", Op: "close key", Key: k.name, AtMostOnce: true}
	for range maxDeleteConflicts {
		ours := ks.kv
		if !ks.isOnOurLease() {
			ours = nil
		}
		unchanged := clientv3.Compare(clientv3.ModRevision(k.fullKey), "=", ours.GetModRevision())
		onLease := clientv3.Compare(clientv3.LeaseValue(k.fullKey), "=", ours.GetLease())
		del, get := clientv3.OpDelete(k.fullKey), clientv3.OpGet(k.fullKey)
		var r *clientv3.TxnResponse
		err := k.m.engine.Do(ctx, call, func(ctx context.Context, _ bool) (err error) {
			r, err = k.m.kv.Txn(ctx).If(unchanged, onLease).Then(del).Else(get).Commit()
			return err
		})
		if err != nil {
			return err
		}
		if r.Succeeded {
			k.setKnown(nil, r.Header.GetRevision())
			return nil
		}
		k.setKnown(r.Responses[0].GetResponseRange().GetKvs(), r.Header.GetRevision())
		if !ks.isOnOurLease() {
			return nil
		}
	}
	return fmt.Errorf("%w: the key was changed %d times meanwhile", errs.Unavailable, maxDeleteConflicts)
}
