package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// The limits that a key is held to before anything is sent.
const (
	maxKeyBytes   = 4 << 10
	maxValueBytes = 3<<19 - 64 // etcd's default for a request, and room for what else is in one
)

// Key is a key that exists as long as its process does. It is on a shared lease, so that it goes away when
// the process dies, and it comes back, for ever, when the lease is lost, when it is deleted, when its value is
// overwritten, and when etcd has been away: at once at first, and with growing and jittered waits up to 2 s while that
// does not help.
//
// A key that was deleted and then created by somebody else is theirs: State is [Suspended] until they give it up, unless
// [WithTakeover] is given. It is safe for concurrent use.
type Key struct {
	m        *Manager
	name     string // as it was given
	fullKey  string
	takeover bool
	ttl      time.Duration
	watch    *keyWatch

	ctx      context.Context //nolint:containedctx // the key's own life, which it hands out
	cancel   context.CancelCauseFunc
	done     chan struct{} // closed when the keeper has ended
	nameFree chan struct{} // closed when the key is closed and its name free again

	sem   chan struct{} // full while somebody works on the key in etcd; it guards known
	known keyState

	mu    sync.Mutex
	value []byte
	state State

	closeOnce sync.Once
	closeErr  error
}

// OpenKey creates a key with a value, puts it on a shared lease and keeps it there until it is closed. [ErrExists] if
// it is there already, also by a Key of this manager, unless [WithTakeover] is given. ctx bounds the first creation
// alone; when that fails nothing is left behind. One RPC, a watch, and, when the shared session is not there yet, one
// more.
func (m *Manager) OpenKey(ctx context.Context, key string, value []byte, o ...KeyOption) (*Key, error) {
	const op = "open key"
	options, optionErr := newKeyOptions(m.ttlOrDefault(), o)
	if err := errors.Join(m.ready(), m.checkKey(key), checkValue(value), optionErr); err != nil {
		return nil, opError(op, key, err)
	}
	k := &Key{
		m: m, name: key, fullKey: m.ns + key, takeover: options.takeover, ttl: options.ttl,
		done: make(chan struct{}), nameFree: make(chan struct{}), sem: make(chan struct{}, 1), value: slices.Clone(value),
	}
	k.watch = newKeyWatch(m.keyWatcher(), k.fullKey[len(m.rootNamespace):])
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

// ttlOrDefault is the TTL of shared sessions, also of a manager that is of no use.
func (m *Manager) ttlOrDefault() time.Duration {
	if m.ttl == 0 {
		return defaultTTL
	}
	return m.ttl
}

func (m *Manager) checkKey(key string) error {
	err := keyspace.Key(key, maxKeyBytes-len(m.ns))
	if err == nil && strings.HasPrefix(key, keyspace.Hidden) {
		err = fmt.Errorf("%w: %s belongs to the library", errs.Invalid, keyspace.Hidden)
	}
	if err == nil && m.engine != nil && m.kv == nil {
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

// claim makes k the only Key of its name in this process: leases tell owners apart, and Keys share theirs. One that is
// being closed is waited for.
func (m *Manager) claim(ctx context.Context, k *Key) error {
	if ctx == nil {
		return errNoContext
	}
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

// Context ends when the key is closed, with a cause that matches [ErrClosed], and not before: a key that is lost comes
// back. State tells what is the case at present.
func (k *Key) Context() context.Context { return k.ctx }

// State is [Alive] while the key is, as far as is known, in etcd with its value and its lease, [Suspended] while it is
// being restored, and [Lost] once it is closed.
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

// Update changes the value. It keeps the lease. One RPC; none when the value is what is there already.
//
// When ctx ends before it is this call's turn, nothing has changed. Any other failure on the way to etcd means that the
// change was not seen to be made: the value is what the key is restored to all the same, as soon as that is possible.
func (k *Key) Update(ctx context.Context, value []byte) error {
	const op = "update key"
	if err := checkValue(value); err != nil {
		return opError(op, k.name, err)
	}
	if ctx == nil {
		return opError(op, k.name, errNoContext)
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

// Close deletes the key, if it is its own, within 5 s. It does so once and returns the same result every time. After an
// error the key is deleted in the background, within 5 s of etcd answering again; at the latest it goes with its lease, when
// the manager is closed. Until then OpenKey takes the key for this process's own.
func (k *Key) Close() error {
	ctx, stop := k.m.closeContext()
	defer stop()
	return k.close(ctx)
}

func (k *Key) close(ctx context.Context) error {
	k.closeOnce.Do(func() {
		k.cancel(errs.ClosedError("key"))
		<-k.done
		k.sem <- struct{}{} // an Update under way ends first
		defer func() { <-k.sem }()
		k.closeErr = k.deleteOurs(ctx)
		k.freeName()
		k.releaseSession()
		close(k.nameFree)
	})
	return k.closeErr
}

// discard closes a key that could not be created. What it may have left in etcd is removed in the background.
func (k *Key) discard() {
	if !k.known.maybeWritten {
		_ = k.Close() // sends nothing
		return
	}
	k.cancel(errs.ClosedError("key"))
	closeKey := func() {
		if err := k.Close(); err != nil {
			k.m.log.WarnContext(k.m.ctx, "a key that could not be created may be there still", "key", errs.Short(k.name), "error", err)
		}
	}
	if !k.m.runInBackground(closeKey) {
		closeKey()
	}
}
