package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
)

// registrationKey is one key that an instance is registered under.
type registrationKey struct {
	registry *Registry
	key      string
	ctx      context.Context //nolint:containedctx // that of the registration

	sem     chan struct{} // full while somebody changes what is to be there
	updates sync.WaitGroup

	awaitedLease clientv3.LeaseID // the last one whose end was waited for; belongs to open

	mu       sync.Mutex
	instance Instance
	value    []byte
	held     *lease.Key // nil until the first success
	dirty    bool       // held does not know of value yet
	closed   bool       // late does not grow any more
}

func (r *Registry) newRegistrationKey(life context.Context, i Instance) (*registrationKey, error) {
	p := &registrationKey{registry: r, key: r.layout.key(i.Service, i.ID), ctx: life, sem: make(chan struct{}, 1)}
	if err := p.set(i); err != nil {
		return nil, err
	}
	return p, nil
}

// options changes what is to be there.
func (k *registrationKey) set(i Instance) error {
	value, err := k.registry.layout.encode(&i)
	if err != nil {
		return invalid("%w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.instance, k.value = i, value
	return nil
}

func (k *registrationKey) get() (i Instance, value []byte, held *lease.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.instance, k.value, k.held
}

// change changes what is to be there, and in etcd if it is there. Before the first success that is all there is to do.
func (k *registrationKey) change(ctx context.Context, f func(i *Instance)) error {
	if err := k.acquire(ctx); err != nil {
		return err
	}
	defer func() { <-k.sem }()
	i, _, _ := k.get()
	f(&i)
	if err := k.set(i); err != nil {
		return err
	}
	_, value, held := k.get() // now: if it is not there yet, then whoever opens it finds the new value
	if held == nil {
		return nil
	}
	err := held.Update(ctx, value)
	switch {
	case err == nil:
		k.setDirty(true)
	case errors.Is(err, kv.ErrExists): // it was lost, and found by somebody else
		return k.takenSinceError()
	case ctx.Err() != nil: // perhaps before it was the key's turn to listen
		k.updateLater(held)
	}
	return reason(err)
}

// takenSinceError is the error where somebody else has the ID who had it not before.
func (k *registrationKey) takenSinceError() error {
	i, _, _ := k.get()
	return &TakenError{Holder: Instance{Service: i.Service, ID: i.ID}, Renewed: true, replaced: true}
}

// updated notes whether the key knows what is to be there.
func (k *registrationKey) setDirty(yes bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dirty = !yes
}

// updateLater tells the key of what is to be there when it listens, which it does not while it is being restored.
func (k *registrationKey) updateLater(held *lease.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dirty || k.closed {
		return
	}
	k.dirty = true
	k.updates.Go(func() {
		if k.acquire(k.ctx) != nil {
			return
		}
		defer func() { <-k.sem }()
		_, value, _ := k.get()
		_ = held.Update(k.ctx, value) // from then on it is the key's business
		k.setDirty(true)
	})
}

func (k *registrationKey) acquire(ctx context.Context) error {
	select {
	case k.sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return retry.ContextError(ctx)
	}
}

// What is in the way is cleared away so often, with waits that grow up to so much, before that is seen to be no use.
const (
	maxConflicts       = 8
	maxConflictBackoff = 500 * time.Millisecond
)

// open creates the key and waits until it is there. While it is not, what is to be there may change.
func (k *registrationKey) open(ctx context.Context, takeover bool) error {
	_, bounded := ctx.Deadline()
	wait := newBackoff()
	for cleared := 0; ; {
		err := k.create(ctx)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errs.HeldHere): // by a registration of another registry of the client, which is alive
			i, _, _ := k.get()
			return &TakenError{Holder: Instance{Service: i.Service, ID: i.ID}, Renewed: true, local: true}
		case errors.Is(err, kv.ErrExists):
			if cleared == maxConflicts { // somebody puts it back each time
				return k.takenSinceError()
			}
			if cleared > 0 && !pause(ctx, min(wait.NextBackOff(), maxConflictBackoff)) {
				return fmt.Errorf("%w: %w", retry.ContextError(ctx), k.takenSinceError())
			}
			if err := k.clearConflict(ctx, takeover); err != nil {
				return err
			}
			cleared++
			continue
		case ctx.Err() != nil, isPermanent(err), !bounded:
			return reason(err)
		}
		if !pause(ctx, wait.NextBackOff()) {
			return fmt.Errorf("%w: %w", retry.ContextError(ctx), reason(err))
		}
	}
}

// isPermanent reports whether trying again is no use.
func isPermanent(err error) bool {
	return errors.Is(err, errs.Invalid) || errors.Is(err, errs.Permission) || errors.Is(err, errs.Unauthenticated) ||
		errors.Is(err, errs.Closed)
}

// create makes one attempt to create the key.
func (k *registrationKey) create(ctx context.Context) error {
	_, value, _ := k.get()
	held, err := k.registry.leases.OpenKey(ctx, k.key, value, lease.WithKeyTTL(k.registry.ttl))
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.held = held
	now := k.value
	k.mu.Unlock()
	if !bytes.Equal(now, value) { // it was changed meanwhile
		_ = k.change(ctx, func(*Instance) {}) // if not now, then when the key is restored
	}
	return nil
}

// clearConflict waits until the key that is in the way is gone. It deletes the key for a takeover, and if
// the predecessor had the same host and port, where normally only one process can listen: such a
// predecessor is taken for dead. It fails if another predecessor is alive.
func (k *registrationKey) clearConflict(ctx context.Context, takeover bool) error {
	e, err := k.registry.store.Get(ctx, k.key)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return nil
	case err != nil:
		return reason(err)
	}
	if holder := k.holderOf(e); !takeover && !k.isSameAddress(e, holder) {
		return k.awaitPredecessor(ctx, e, holder)
	}
	_, err = k.registry.store.DeleteAt(ctx, k.key, e.ModRevision)
	if errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrUnknownOutcome) {
		return nil // the next attempt tells
	}
	return reason(err)
}

// holderOf returns the instance that has the key; only Service and ID if its value cannot be decoded.
func (k *registrationKey) holderOf(e kv.Entry[[]byte]) Instance {
	want, _, _ := k.get()
	if i, err := k.registry.layout.decode(want.Service, want.ID, e.Value); err == nil {
		return *i
	}
	return Instance{Service: want.Service, ID: want.ID}
}

// isSameAddress reports whether the holder was registered by a process with the host and port of
// the instance to register. A key without a lease was not written by a registration.
func (k *registrationKey) isSameAddress(e kv.Entry[[]byte], holder Instance) bool {
	want, _, _ := k.get()
	return e.Lease != 0 && holder.Host == want.Host && holder.Port == want.Port
}

// state is what the key is like.
func (k *registrationKey) state() lease.State {
	if _, _, held := k.get(); held != nil {
		return held.State()
	}
	return lease.Suspended
}

// isDraining reports whether the key says that the instance leaves.
func (k *registrationKey) isDraining() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held != nil && !k.dirty && k.instance.Status == Draining
}

// close deletes the key if it is ours. The registration is over by then.
func (k *registrationKey) close() error {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.updates.Wait()
	if _, _, held := k.get(); held != nil {
		return reason(held.Close())
	}
	return nil
}
