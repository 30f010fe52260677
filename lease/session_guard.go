package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"
)

// guardDir is the directory of the guard keys, below a namespace.
const guardDir = keyspace.Hidden + "session/"

// guardKey is a key on the session's lease. It exists while the lease does. Transactions compare it
// because they cannot compare a lease.
type guardKey struct {
	key string // absolute

	mu      sync.Mutex
	attempt *guardWrite // running, or the one that succeeded
}

// guardWrite is an attempt to write the key. All callers that need the key wait for it.
type guardWrite struct {
	done chan struct{}
	err  error
}

// Guard returns a guard for kv.WithGuard that holds while the session's lease exists. After that,
// etcd refuses the write, whatever the clock of the writer says, with an error that matches
// kv.ErrGuard and [ErrExpired].
//
// An etcd transaction cannot compare leases, only keys. The first call of Guard therefore puts a
// key on the lease, in the hidden directory of the namespace. That call waits for one RPC, for at
// most 5 s and not beyond the end of the session. A session without a guard costs nothing. If
// another client deletes or overwrites the key, the guard fails until [Session.Verify] restores it.
// If the key cannot be written, the guard does not hold, its error says why, and the next call
// tries again.
//
// Locks and leaderships have guards of their own, which need no additional key.
func (s *Session) Guard() kv.Guard {
	lostErr := ErrExpired
	if err := s.ensureGuard(); err != nil {
		lostErr = err
	}
	onLease := clientv3.Compare(clientv3.LeaseValue(s.guard.key), "=", s.id)
	return kv.NewGuard(lostErr, onLease)
}

// ensureGuard puts the key on the lease, unless that is done. Concurrent callers share one attempt.
// After a failed attempt the next call makes another one.
func (s *Session) ensureGuard() error {
	g := &s.guard
	g.mu.Lock()
	w := g.attempt
	if w != nil {
		g.mu.Unlock()
		<-w.done
		return w.err
	}
	w = &guardWrite{done: make(chan struct{})}
	g.attempt = w
	g.mu.Unlock()
	defer close(w.done)
	if w.err = s.putGuard(); w.err != nil {
		g.mu.Lock()
		g.attempt = nil
		g.mu.Unlock()
	}
	return w.err
}

// isWritten reports whether the key was put.
func (g *guardKey) isWritten() bool {
	g.mu.Lock()
	w := g.attempt
	g.mu.Unlock()
	if w == nil {
		return false
	}
	select {
	case <-w.done:
		return w.err == nil
	default:
		return false
	}
}

// restoreGuard checks that the key is on the lease and puts it again if it is not. It returns an
// error that matches ErrNotFound if the lease does not exist.
func (s *Session) restoreGuard(ctx context.Context, op string) error {
	call := retry.Call{Pkg: "lease", Op: op, Key: wire.FormatLeaseID(s.id), Read: true}
	return s.c.engine.Do(ctx, call, func(ctx context.Context, _ bool) error {
		onLease := clientv3.Compare(clientv3.LeaseValue(s.guard.key), "=", s.id)
		// Without an operation the transaction would not be linearizable.
		get := clientv3.OpGet(s.guard.key, clientv3.WithCountOnly())
		r, err := s.c.kv.Txn(ctx).If(onLease).Then(get).Else(get).Commit()
		if err != nil || r.Succeeded {
			return err
		}
		return s.putGuardKey(ctx)
	})
}

// putGuardKey puts the key on the lease. It is safe to repeat. It fails if the lease does not
// exist.
func (s *Session) putGuardKey(ctx context.Context) error {
	_, err := s.c.kv.Put(ctx, s.guard.key, time.Now().UTC().Format(time.RFC3339), clientv3.WithLease(s.id))
	return err
}

func (s *Session) putGuard() error {
	if err := s.Err(); err != nil {
		if errors.Is(err, ErrClosed) {
			return fmt.Errorf("%w: %w", ErrExpired, err)
		}
		return err
	}
	ctx, stop := context.WithTimeout(s.ctx, closeTimeout)
	defer stop()
	if s.c.kv == nil {
		return opError("guard", wire.FormatLeaseID(s.id), errNoKV)
	}
	// The put is as safe to repeat as a read. It is declared as one so that its error never matches
	// errs.UnknownOutcome: the error of the guarded write includes it, and the outcome of that
	// write is known.
	call := retry.Call{Pkg: "lease", Op: "guard", Key: wire.FormatLeaseID(s.id), Read: true}
	err := s.c.engine.Do(ctx, call, func(ctx context.Context, _ bool) error { return s.putGuardKey(ctx) })
	if isNotFound(err) {
		s.lose(ErrNotFound, nil)
		return s.endErr()
	}
	return err
}
