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
	"github.com/etcdkit/etcdkit/kv"
)

// guardDir is where the keys are, below a namespace, by which etcd is asked whether a lease lives.
const guardDir = keyspace.Hidden + "session/"

// guardKey is a key on the session's lease: it is there as long as the lease is. A compare cannot ask for a lease
// itself.
type guardKey struct {
	key string // absolute

	mu      sync.Mutex
	attempt *guardWrite // that is under way, or that has worked
}

// guardWrite is one attempt to write the key, for all who wait for it.
type guardWrite struct {
	done chan struct{}
	err  error
}

// Guard returns what holds in etcd as long as the session's lease lives, for kv.WithGuard: a write after that is
// refused, in etcd and whatever the writer's clock says, with an error that matches kv.ErrGuard and [ErrExpired].
//
// etcd cannot be asked in a transaction whether a lease lives, only about keys, so the first call puts a key on the
// lease, below the namespace's hidden dir: it waits for one RPC, until the session ends and 5 s at most. Sessions that
// guard nothing thus cost nothing. If somebody removes or overwrites that key, the guard fails until [Session.Verify] has
// restored it. A guard whose key could not be written does not hold, its error says why, and the next
// call tries again. Locks and leaderships have guards of their own, which need no further key.
func (s *Session) Guard() kv.Guard {
	lostErr := ErrExpired
	if err := s.ensureGuard(); err != nil {
		lostErr = err
	}
	onLease := clientv3.Compare(clientv3.LeaseValue(s.guard.key), "=", s.id)
	return kv.NewGuard(lostErr, onLease)
}

// ensureGuard puts the key on the lease, once; after an attempt that failed the next call makes another.
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

// restoreGuard makes sure that the key is on the lease, and puts it again if it is not. The error says so if there is no
// such lease.
func (s *Session) restoreGuard(ctx context.Context, op string) error {
	call := retry.Call{Pkg: "lease", Op: op, Key: formatLeaseID(s.id), Read: true}
	return s.c.engine.Do(ctx, call, func(ctx context.Context, _ bool) error {
		onLease := clientv3.Compare(clientv3.LeaseValue(s.guard.key), "=", s.id)
		get := clientv3.OpGet(s.guard.key, clientv3.WithCountOnly()) // without an operation the transaction is not linearizable
		r, err := s.c.kv.Txn(ctx).If(onLease).Then(get).Else(get).Commit()
		if err != nil || r.Succeeded {
			return err
		}
		return s.putGuardKey(ctx)
	})
}

// putGuardKey puts the key on the lease. It can be repeated, and fails if there is no such lease.
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
		return opError("guard", formatLeaseID(s.id), errNoKV)
	}
	// As repeatable as a read. Nor may what became of this put be taken for what became of the guarded write, whose error
	// shows ours.
	call := retry.Call{Pkg: "lease", Op: "guard", Key: formatLeaseID(s.id), Read: true}
	err := s.c.engine.Do(ctx, call, func(ctx context.Context, _ bool) error { return s.putGuardKey(ctx) })
	if isNotFound(err) {
		s.lose(ErrNotFound, nil)
		return s.endErr()
	}
	return err
}
