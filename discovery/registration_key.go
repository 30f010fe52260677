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

// registrationKey keeps one instance registered under one key.
type registrationKey struct {
	registry *Registry
	key      string
	ctx      context.Context //nolint:containedctx // of the registration

	sem     chan struct{} // capacity 1; held while the instance changes
	updates sync.WaitGroup

	awaitedLease clientv3.LeaseID // last lease waited for; used by open only

	mu       sync.Mutex
	instance Instance
	value    []byte
	held     *lease.Key // nil until the key was first created
	dirty    bool       // held does not have value yet
	closed   bool       // updates takes no new goroutines
}

func (r *Registry) newRegistrationKey(ctx context.Context, i Instance) (*registrationKey, error) {
	k := &registrationKey{registry: r, key: r.layout.key(i.Service, i.ID), ctx: ctx, sem: make(chan struct{}, 1)}
	if err := k.set(i); err != nil {
		return nil, err
	}
	return k, nil
}

// set sets the desired instance.
func (k *registrationKey) set(i Instance) error {
	value, err := k.registry.layout.encode(&i)
	if err != nil {
		return errs.Invalidf("%w", err)
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

// change changes the desired instance and, if the key was created, the key.
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
	// Read now: if the key is not created yet, create will find the new value.
	_, value, held := k.get()
	if held == nil {
		return nil
	}
	err := held.Update(ctx, value)
	switch {
	case err == nil:
		k.setDirty(false)
	case errors.Is(err, kv.ErrExists): // lost, and taken by another process
		return k.takenSinceError()
	case ctx.Err() != nil: // possibly before it was the call's turn
		k.updateLater(held)
	}
	return errs.Cause(err)
}

// takenSinceError reports that another process took the ID after this one had registered it.
func (k *registrationKey) takenSinceError() error {
	i, _, _ := k.get()
	return &TakenError{Holder: Instance{Service: i.Service, ID: i.ID}, Renewed: true, replaced: true}
}

// setDirty records whether the key lacks the desired value.
func (k *registrationKey) setDirty(dirty bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dirty = dirty
}

// updateLater updates the key in the background. While it is being restored, it takes no updates.
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
		_ = held.Update(k.ctx, value) // on failure the key keeps the value and restores it
		k.setDirty(false)
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

// Limits of the attempts to clear away a conflicting key.
const (
	maxConflicts       = 8
	maxConflictBackoff = 500 * time.Millisecond
)

// open creates the key and waits until it exists. The desired instance may change meanwhile.
func (k *registrationKey) open(ctx context.Context, takeover bool) error {
	_, hasDeadline := ctx.Deadline()
	wait := newBackoff()
	for cleared := 0; ; {
		err := k.create(ctx)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errs.HeldHere):
			// By a live registration of another registry of this client.
			i, _, _ := k.get()
			return &TakenError{Holder: Instance{Service: i.Service, ID: i.ID}, Renewed: true, local: true}
		case errors.Is(err, kv.ErrExists):
			if cleared == maxConflicts { // another process keeps recreating it
				return k.takenSinceError()
			}
			if cleared > 0 && retry.Sleep(ctx, min(wait.NextBackOff(), maxConflictBackoff)) != nil {
				return fmt.Errorf("%w: %w", retry.ContextError(ctx), k.takenSinceError())
			}
			if err := k.clearConflict(ctx, takeover); err != nil {
				return err
			}
			cleared++
			continue
		case ctx.Err() != nil, isPermanent(err), !hasDeadline:
			return errs.Cause(err)
		}
		if retry.Sleep(ctx, wait.NextBackOff()) != nil {
			return fmt.Errorf("%w: %w", retry.ContextError(ctx), errs.Cause(err))
		}
	}
}

// isPermanent reports whether retrying is pointless.
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
	if !bytes.Equal(now, value) { // changed in the meantime
		_ = k.change(ctx, func(*Instance) {}) // if it fails, restoring the key writes it
	}
	return nil
}

// clearConflict waits until the conflicting key is gone. It deletes the key for a takeover, and if
// the predecessor had the same host and port, since normally only one process can listen there:
// such a predecessor is considered dead. It fails if another predecessor is alive.
func (k *registrationKey) clearConflict(ctx context.Context, takeover bool) error {
	e, err := k.registry.store.Get(ctx, k.key)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return nil
	case err != nil:
		return errs.Cause(err)
	}
	if holder := k.holderOf(e); !takeover && !k.isSameAddress(e, holder) {
		return k.awaitPredecessor(ctx, e, holder)
	}
	_, err = k.registry.store.DeleteAt(ctx, k.key, e.ModRevision)
	if errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrUnknownOutcome) {
		return nil // the next attempt decides
	}
	return errs.Cause(err)
}

// holderOf returns the instance stored in e, or only its Service and ID if it cannot be decoded.
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

// state returns the state of the key.
func (k *registrationKey) state() lease.State {
	if _, _, held := k.get(); held != nil {
		return held.State()
	}
	return lease.Suspended
}

// isDraining reports whether the stored instance is draining.
func (k *registrationKey) isDraining() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held != nil && !k.dirty && k.instance.Status == Draining
}

// close deletes the key if it is ours. The registration's context has ended.
func (k *registrationKey) close() error {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.updates.Wait()
	if _, _, held := k.get(); held != nil {
		return errs.Cause(held.Close())
	}
	return nil
}
