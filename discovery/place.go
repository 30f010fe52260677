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

// place is one key that an instance is registered under.
type place struct {
	r    *Registry
	key  string
	life context.Context //nolint:containedctx // that of the registration

	turn chan struct{} // full while somebody changes what is to be there
	late sync.WaitGroup

	awaited clientv3.LeaseID // the last one whose end was waited for; belongs to open

	mu     sync.Mutex
	want   Instance
	value  []byte
	held   *lease.Key // nil until the first success
	untold bool       // held does not know of value yet
	closed bool       // late does not grow any more
}

func (r *Registry) newPlace(life context.Context, i Instance) (*place, error) {
	p := &place{r: r, key: r.layout.key(i.Service, i.ID), life: life, turn: make(chan struct{}, 1)}
	if err := p.set(i); err != nil {
		return nil, err
	}
	return p, nil
}

// set changes what is to be there.
func (p *place) set(i Instance) error {
	value, err := p.r.layout.encode(&i)
	if err != nil {
		return invalid("%w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.want, p.value = i, value
	return nil
}

func (p *place) get() (i Instance, value []byte, held *lease.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.want, p.value, p.held
}

// change changes what is to be there, and in etcd if it is there. Before the first success that is all there is to do.
func (p *place) change(ctx context.Context, f func(i *Instance)) error {
	if err := p.take(ctx); err != nil {
		return err
	}
	defer func() { <-p.turn }()
	i, _, _ := p.get()
	f(&i)
	if err := p.set(i); err != nil {
		return err
	}
	_, value, held := p.get() // now: if it is not there yet, then whoever opens it finds the new value
	if held == nil {
		return nil
	}
	err := held.Update(ctx, value)
	switch {
	case err == nil:
		p.told(true)
	case errors.Is(err, kv.ErrExists): // it was lost, and found by somebody else
		return p.takenMeanwhile()
	case ctx.Err() != nil: // perhaps before it was the key's turn to listen
		p.tellLater(held)
	}
	return reason(err)
}

// takenMeanwhile is the error where somebody else has the ID who had it not before.
func (p *place) takenMeanwhile() error {
	i, _, _ := p.get()
	return &TakenError{Holder: Instance{Service: i.Service, ID: i.ID}, Renewed: true, since: true}
}

// told notes whether the key knows what is to be there.
func (p *place) told(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.untold = !yes
}

// tellLater tells the key of what is to be there when it listens, which it does not while it is being restored.
func (p *place) tellLater(held *lease.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.untold || p.closed {
		return
	}
	p.untold = true
	p.late.Go(func() {
		if p.take(p.life) != nil {
			return
		}
		defer func() { <-p.turn }()
		_, value, _ := p.get()
		_ = held.Update(p.life, value) // from then on it is the key's business
		p.told(true)
	})
}

func (p *place) take(ctx context.Context) error {
	select {
	case p.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return retry.ContextError(ctx)
	}
}

// What is in the way is cleared away so often, with waits that grow up to so much, before that is seen to be no use.
const (
	clearings = 8
	clearMost = 500 * time.Millisecond
)

// open creates the key and waits until it is there. While it is not, what is to be there may change.
func (p *place) open(ctx context.Context, takeover bool) error {
	_, bounded := ctx.Deadline()
	wait := newBackoff()
	for cleared := 0; ; {
		err := p.try(ctx)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errs.HeldHere): // by a registration of another registry of the client, which is alive
			i, _, _ := p.get()
			return &TakenError{Holder: Instance{Service: i.Service, ID: i.ID}, Renewed: true, here: true}
		case errors.Is(err, kv.ErrExists):
			if cleared == clearings { // somebody puts it back each time
				return p.takenMeanwhile()
			}
			if cleared > 0 && !pause(ctx, min(wait.NextBackOff(), clearMost)) {
				return fmt.Errorf("%w: %w", retry.ContextError(ctx), p.takenMeanwhile())
			}
			if err := p.clear(ctx, takeover); err != nil {
				return err
			}
			cleared++
			continue
		case ctx.Err() != nil, hopeless(err), !bounded:
			return reason(err)
		}
		if !pause(ctx, wait.NextBackOff()) {
			return fmt.Errorf("%w: %w", retry.ContextError(ctx), reason(err))
		}
	}
}

// hopeless reports whether trying again is no use.
func hopeless(err error) bool {
	return errors.Is(err, errs.Invalid) || errors.Is(err, errs.Permission) || errors.Is(err, errs.Unauthenticated) ||
		errors.Is(err, errs.Closed)
}

// try makes one attempt to create the key.
func (p *place) try(ctx context.Context) error {
	_, value, _ := p.get()
	k, err := p.r.leases.OpenKey(ctx, p.key, value, lease.WithKeyTTL(p.r.ttl))
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.held = k
	now := p.value
	p.mu.Unlock()
	if !bytes.Equal(now, value) { // it was changed meanwhile
		_ = p.change(ctx, func(*Instance) {}) // if not now, then when the key is restored
	}
	return nil
}

// clear waits until the key that is in the way is gone. It deletes the key for a takeover, and if
// the predecessor had the same host and port, where normally only one process can listen: such a
// predecessor is taken for dead. It fails if another predecessor is alive.
func (p *place) clear(ctx context.Context, takeover bool) error {
	e, err := p.r.store.Get(ctx, p.key)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return nil
	case err != nil:
		return reason(err)
	}
	if holder := p.holderOf(e); !takeover && !p.isSameAddress(e, holder) {
		return p.outlive(ctx, e, holder)
	}
	_, err = p.r.store.DeleteAt(ctx, p.key, e.ModRevision)
	if errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrUnknownOutcome) {
		return nil // the next attempt tells
	}
	return reason(err)
}

// holderOf returns the instance that has the key; only Service and ID if its value cannot be decoded.
func (p *place) holderOf(e kv.Entry[[]byte]) Instance {
	want, _, _ := p.get()
	if i, err := p.r.layout.decode(want.Service, want.ID, e.Value); err == nil {
		return *i
	}
	return Instance{Service: want.Service, ID: want.ID}
}

// isSameAddress reports whether the holder was registered by a process with the host and port of
// the instance to register. A key without a lease was not written by a registration.
func (p *place) isSameAddress(e kv.Entry[[]byte], holder Instance) bool {
	want, _, _ := p.get()
	return e.Lease != 0 && holder.Host == want.Host && holder.Port == want.Port
}

// state is what the key is like.
func (p *place) state() lease.State {
	if _, _, held := p.get(); held != nil {
		return held.State()
	}
	return lease.Suspended
}

// marked reports whether the key says that the instance leaves.
func (p *place) marked() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held != nil && !p.untold && p.want.Status == Draining
}

// close deletes the key if it is ours. The registration is over by then.
func (p *place) close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.late.Wait()
	if _, _, held := p.get(); held != nil {
		return reason(held.Close())
	}
	return nil
}
