package lock

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/sweep"
	"github.com/etcdkit/etcdkit/lease"
)

// ownKey is a key that this package creates in a queue, on the lease of a session. It is registered
// with the locker from before the first request that could create it until it is known to be gone
// or is left to the sweeper. It belongs to one goroutine at a time.
type ownKey struct {
	q              *queue
	session        *lease.Session
	releaseSession func() // ends the use of the session
	key            string
	value          string

	createRev  int64 // create revision, 0 before the key exists
	modRev     int64 // mod revision, as last known
	unresolved int32 // requests that may yet create the key, even after it was removed

	mu        sync.Mutex
	lostCause error // why the key is no longer ours
	hold      *hold // nil while there is none
}

// register makes k a new key, on a shared session that has room. It waits for a session if there is
// none. The caller must call unregister.
func (k *ownKey) register(ctx context.Context, q *queue, kind *waiterKind) error {
	l := q.l
	s, release, err := l.leases.Acquire(ctx, l.sessionOptions...)
	if err != nil {
		return errs.Cause(err)
	}
	k.q, k.session, k.releaseSession, k.key, k.value = q, s, release, l.newKey(kind, s), kind.value
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ownKeys[k.key] = k
	l.retainSession(s)
	return nil
}

// newKey returns a key that was never used before.
func (l *Locker) newKey(kind *waiterKind, s *lease.Session) string {
	b := make([]byte, 0, len(kind.prefix)+len(l.id)+len(kind.suffix)+2*maxHexLen+2)
	b = append(b, kind.prefix...)
	b = strconv.AppendInt(b, int64(s.ID()), 16)
	b = append(append(b, '-'), l.id...)
	b = strconv.AppendUint(append(b, '.'), l.lastNonce.Add(1), 36)
	return string(append(b, kind.suffix...))
}

// maxHexLen is the length of the longest 64-bit number in hexadecimal.
const maxHexLen = 16

// putOp returns the operation that creates the key or changes its value.
func (k *ownKey) putOp(value string) clientv3.Op {
	return clientv3.OpPut(k.key, value, clientv3.WithLease(k.session.ID()))
}

// setCreated records the create revision of the key.
func (k *ownKey) setCreated(create int64) { k.createRev, k.modRev = create, create }

// check records a loss if the key, as it was read, is no longer ours.
func (k *ownKey) check(create int64, on clientv3.LeaseID) error {
	switch {
	case create != k.createRev:
		k.markLost(errKeyDeleted)
	case on != k.session.ID():
		k.markLost(errOverwritten)
	default:
		return nil
	}
	return k.lostErr()
}

// rewriteKey puts the key again, with the operations of more in the same transaction. Its place in
// the queue is kept, and its mod revision rises. It costs one RPC. The transaction compares the
// previous mod revision, so that an earlier one that arrives late has no effect.
func (k *ownKey) rewriteKey(ctx context.Context, value string, more ...clientv3.Op) (txnResult, error) {
	ctx, stop := k.bindSession(ctx)
	defer stop()
	for {
		resp, err := k.q.l.commit(ctx, txn{
			op:     "rewrite",
			cmps:   []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(k.key), "=", k.modRev)},
			then:   append([]clientv3.Op{k.putOp(value)}, more...),
			orElse: []clientv3.Op{clientv3.OpGet(k.key)},
		})
		if err != nil {
			if errors.Is(err, errs.LeaseNotFound) {
				k.markLost(errLeaseEnded)
			}
			return resp, cmp.Or(k.lostErr(), err)
		}
		if resp.Succeeded {
			k.modRev = resp.revision()
			return resp, nil
		}
		kvs := resp.rangeResponse(0).GetKvs()
		if len(kvs) == 0 {
			k.markLost(errKeyDeleted)
			return resp, k.lostErr()
		}
		if err := k.check(kvs[0].GetCreateRevision(), clientv3.LeaseID(kvs[0].GetLease())); err != nil {
			return resp, err
		}
		k.modRev = kvs[0].GetModRevision() // by a put of ours whose answer was lost: put again
	}
}

// removeKey deletes the key if it is still the one that was created, and then runs the operations
// of more. It costs one RPC. It returns ErrLost if the key was already gone. Afterwards the key is
// unregistered, and swept if the outcome is unknown.
func (k *ownKey) removeKey(ctx context.Context, more ...clientv3.Op) (txnResult, error) {
	resp, err := k.q.l.commit(ctx, txn{
		op:   "release",
		cmps: []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(k.key), "=", k.createRev)},
		then: append([]clientv3.Op{clientv3.OpDelete(k.key)}, more...),
	})
	if err != nil {
		k.discard()
		return resp, err
	}
	if k.unresolved == 0 || k.sweep() {
		k.unregister()
	} // else Close removes it
	if !resp.Succeeded && resp.unresolved == 0 {
		return resp, newLostError(errKeyDeleted)
	}
	return resp, nil
}

// discard gives up the key without waiting. It is removed in the background.
func (k *ownKey) discard() {
	if k.createRev == 0 && k.unresolved == 0 {
		k.unregister() // the key was never created
		return
	}
	if k.sweep() {
		k.unregister()
	} // else Close removes it
}

// unregister removes the key from the locker. It is gone or is being swept.
func (k *ownKey) unregister() {
	l := k.q.l
	l.mu.Lock()
	if l.ownKeys[k.key] == k {
		delete(l.ownKeys, k.key)
		l.releaseSession(k.session)
	}
	l.mu.Unlock()
	k.releaseSession()
}

// sweep leaves the key to the sweeper of the leases, which deletes it in the background until it is
// known to be gone, also after the locker is closed. It reports false while Close has yet to delete
// the registered keys itself.
func (k *ownKey) sweep() bool {
	l := k.q.l
	l.mu.Lock()
	closing := l.closed && !l.keysRemoved
	l.mu.Unlock()
	if closing {
		return false
	}
	k.addToSweeper()
	return true
}

// addToSweeper leaves the key to the sweeper.
func (k *ownKey) addToSweeper() {
	l := k.q.l
	l.sweeper.Add(sweep.Key{
		Name: k.key, Leases: []clientv3.LeaseID{k.session.ID()}, Late: k.unresolved > 0,
		Delete: func(ctx context.Context) error {
			existed, err := l.deleteKey(ctx, k.key)
			if existed {
				l.counters.swept.Add(1)
			}
			return err
		},
	})
}

// bindSession returns a context that also ends with the session.
func (k *ownKey) bindSession(ctx context.Context) (bound context.Context, stop func()) {
	bound, cancel := context.WithCancelCause(ctx)
	detach := context.AfterFunc(k.session.Context(), func() { cancel(newLostError(k.session.Err())) })
	return bound, func() {
		detach()
		cancel(nil)
	}
}

// markLost records why the key is no longer ours, and ends its hold at once.
func (k *ownKey) markLost(cause error) {
	k.mu.Lock()
	if k.lostCause == nil {
		k.lostCause = newLostError(cause)
	}
	h := k.hold
	k.mu.Unlock()
	if h != nil {
		h.markLost(cause)
	}
}

// lostErr returns why the key is useless: its session has ended or it was deleted. It returns nil
// otherwise.
func (k *ownKey) lostErr() error {
	if err := k.session.Err(); err != nil {
		return newLostError(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lostCause
}

// deleteKey deletes a key of this package, and reports whether it existed. It may be repeated,
// because no key is used twice.
func (l *Locker) deleteKey(ctx context.Context, key string) (existed bool, err error) {
	call := retry.Call{Pkg: "lock", Op: "sweep", Key: key, AtMostOnce: true}
	op := clientv3.OpDelete(key)
	resp, err := retry.Do(ctx, l.sender.Engine, call, func(ctx context.Context, _ bool) (clientv3.OpResponse, error) {
		return l.sender.KV.Do(ctx, op)
	})
	return err == nil && resp.Del().Deleted > 0, err
}

// sessionRef counts the keys on a session. The locker's mu guards it.
type sessionRef struct {
	users  int
	detach func() bool // detaches it from the end of the session
}

// retainSession counts a key on a session, the end of which ends its hold or wait. The caller holds
// l.mu.
func (l *Locker) retainSession(s *lease.Session) {
	ref := l.sessions[s]
	if ref == nil {
		ref = &sessionRef{detach: context.AfterFunc(s.Context(), func() { l.onSessionEnd(s) })}
		l.sessions[s] = ref
	}
	ref.users++
}

// releaseSession removes a key from the count of a session. The caller holds l.mu.
func (l *Locker) releaseSession(s *lease.Session) {
	ref := l.sessions[s]
	if ref == nil {
		return
	}
	ref.users--
	if ref.users == 0 {
		ref.detach()
		delete(l.sessions, s)
	}
}

// onSessionEnd ends the holds and waits whose keys are on a session that has ended.
func (l *Locker) onSessionEnd(s *lease.Session) {
	err := s.Err()
	l.mu.Lock()
	delete(l.sessions, s)
	var keys []*ownKey
	for _, k := range l.ownKeys {
		if k.session == s {
			keys = append(keys, k)
		}
	}
	l.mu.Unlock()
	for _, k := range keys {
		k.markLost(err)
	}
}
