package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// Limits, checked before anything is sent.
const (
	maxKeyBytes = 4 << 10
	// maxValueBytes is etcd's default request limit, less room for the rest of the request.
	maxValueBytes = 3<<19 - 64
)

// Key is a key that exists as long as its process runs. It is on a shared lease, so it disappears
// when the process dies. It is restored whenever the lease is lost, the key is deleted, its value
// is overwritten, or an outage ends: immediately at first, then with jittered delays that grow up
// to 2 s. Restoring never gives up.
//
// A key that was deleted and then created by another owner belongs to that owner: State is
// [Suspended] until it is deleted, unless [WithTakeover] is given. Key is safe for concurrent use.
type Key struct {
	m        *Manager
	name     string // as passed to OpenKey
	fullKey  string
	takeover bool
	ttl      time.Duration
	watch    *keyWatch

	ctx      context.Context //nolint:containedctx // of the key; Context returns it
	cancel   context.CancelCauseFunc
	done     chan struct{} // closed when reconcileLoop has returned
	nameFree chan struct{} // closed when the key is closed and its name can be used again

	sem   chan struct{} // has capacity 1; held while the key is read or written; guards known
	known keyState

	mu    sync.Mutex
	value []byte
	state State

	closing  atomic.Bool
	closeErr error // set before nameFree is closed
}

// OpenKey creates a key with a value, puts it on a shared lease and keeps it there until it is
// closed. It returns [ErrExists] if the key exists, unless [WithTakeover] is given, and always if
// this manager has an open Key of that name. ctx bounds the first creation only; if that fails,
// nothing is left behind. It costs one RPC and a watch, and one more RPC if no shared session
// exists yet.
func (m *Manager) OpenKey(ctx context.Context, key string, value []byte, o ...KeyOption) (*Key, error) {
	const op = "open key"
	options, optionErr := newKeyOptions(m.ttl, o)
	if err := errors.Join(m.ready(), m.checkKey(key), checkValue(value), optionErr); err != nil {
		return nil, opError(op, key, err)
	}
	k := &Key{
		m: m, name: key, fullKey: m.ns + key, takeover: options.takeover, ttl: options.ttl,
		done: make(chan struct{}), nameFree: make(chan struct{}), sem: make(chan struct{}, 1), value: slices.Clone(value),
	}
	watcher, err := m.keyWatcher()
	if err != nil {
		return nil, opError(op, key, err)
	}
	k.watch = newKeyWatch(watcher, k.fullKey[len(m.rootNamespace):])
	k.ctx, k.cancel = context.WithCancelCause(context.WithoutCancel(m.ctx))
	if err := m.claim(ctx, k); err != nil {
		return nil, opError(op, key, err)
	}
	if err := k.reconcile(ctx, op, false); err != nil {
		close(k.done)
		k.discard()
		return nil, err
	}
	go k.reconcileLoop()
	return k, nil
}

func (m *Manager) checkKey(key string) error {
	err := keyspace.Key(key, maxKeyBytes-len(m.ns))
	if err == nil && strings.HasPrefix(key, keyspace.Hidden) {
		err = fmt.Errorf("%w: %s belongs to the library", errs.Invalid, keyspace.Hidden)
	}
	if err == nil && m.kv == nil {
		err = errNoKV
	}
	return err
}

func checkValue(v []byte) error {
	if len(v) > maxValueBytes {
		return fmt.Errorf("%w: the value is %d bytes, the limit is %d", errs.TooLarge, len(v), maxValueBytes)
	}
	return nil
}

// claim reserves the name of k in this process, because ownership is determined by leases, which
// Keys share. It waits for a Key of that name that is being closed.
func (m *Manager) claim(ctx context.Context, k *Key) error {
	for {
		m.mu.Lock()
		other := m.keys[k.fullKey]
		switch {
		case m.closed:
			m.mu.Unlock()
			return errs.ClosedError("lease manager")
		case other == nil:
			m.keys[k.fullKey] = k
			s := m.sweeps[k.fullKey]
			delete(m.sweeps, k.fullKey)
			m.mu.Unlock()
			k.known.resumeSweep(s)
			return nil
		}
		m.mu.Unlock()
		if other.ctx.Err() == nil {
			return fmt.Errorf("%w: %w", ErrExists, errs.HeldHere)
		}
		select {
		case <-other.nameFree:
		case <-ctx.Done():
			return m.waitError(ctx)
		}
	}
}

// Context returns a context that ends only when the key is closed, with a cause that matches
// [ErrClosed]. It does not end while the key is being restored; use State to see that.
func (k *Key) Context() context.Context { return k.ctx }

// State returns [Alive] while the key is known to be in etcd with its value and lease, [Suspended]
// while it is being restored, and [Lost] once it is closed.
func (k *Key) State() State {
	k.mu.Lock()
	state, s := k.state, k.known.session.Load()
	k.mu.Unlock()
	switch {
	case k.ctx.Err() != nil:
		return Lost
	case state == Alive && (s == nil || s.Err() != nil):
		return Suspended
	}
	return state
}

// Update changes the value. The key stays on its lease. It costs one RPC, or none if the value is
// unchanged.
//
// If ctx ends before the call gets its turn, nothing changes. After any other error in sending the
// request, the change was not confirmed, but the key will be restored to the new value as soon as
// possible.
func (k *Key) Update(ctx context.Context, value []byte) error {
	const op = "update key"
	if err := checkValue(value); err != nil {
		return opError(op, k.name, err)
	}
	if k.ctx.Err() != nil { // k.sem may be held by a sweep
		return opError(op, k.name, errs.ClosedError("key"))
	}
	if err := k.acquire(ctx, op); err != nil {
		return err
	}
	defer func() { <-k.sem }()
	if k.ctx.Err() != nil {
		return opError(op, k.name, errs.ClosedError("key"))
	}
	k.mu.Lock()
	k.value = slices.Clone(value)
	k.mu.Unlock()
	return k.restore(ctx, op, false)
}

// Close deletes the key, if it belongs to this Key, within 5 s. Further calls wait for the first
// one, for at most 5 s, and return its result. After an error the key is deleted in the background,
// within 5 s after etcd responds again, or with its lease when the manager is closed, whichever
// comes first. Until then OpenKey treats the key as owned by this process.
func (k *Key) Close() error {
	ctx, stop := k.m.closeContext()
	defer stop()
	return k.close(ctx)
}

// close deletes the key. If another call does so already, close waits for it until ctx ends.
func (k *Key) close(ctx context.Context) error {
	if !k.closing.CompareAndSwap(false, true) {
		select {
		case <-k.nameFree:
			return k.closeErr
		case <-ctx.Done():
			return stillClosingError("close key", k.name, k.m.waitError(ctx))
		}
	}
	k.cancel(errs.ClosedError("key"))
	<-k.done
	k.sem <- struct{}{} // waits for a running Update
	defer func() { <-k.sem }()
	k.closeErr = k.deleteOurs(ctx)
	k.freeName()
	k.releaseSession()
	close(k.nameFree)
	return k.closeErr
}

// discard closes a key that could not be created. What may be left of it in etcd is deleted in the
// background.
func (k *Key) discard() {
	if !k.known.maybeWritten {
		_ = k.Close() // sends nothing
		return
	}
	k.cancel(errs.ClosedError("key"))
	closeKey := func() {
		if err := k.Close(); err != nil {
			k.m.log.WarnContext(k.m.ctx, "a key that could not be created may still exist", "key", errs.Short(k.name), "error", err)
		}
	}
	if !k.m.runInBackground(closeKey) {
		closeKey()
	}
}
