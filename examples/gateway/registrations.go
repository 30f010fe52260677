package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/kv"
)

// registrations is what was registered through this gateway, which it keeps in etcd for as long as it runs.
type registrations struct {
	registry *discovery.Registry
	store    *kv.Store
	most     int

	mu   sync.Mutex
	held map[name]*discovery.Registration // nil while it is being registered or taken back
}

// name is that of an instance.
type name struct{ service, id string }

func newRegistrations(registry *discovery.Registry, store *kv.Store, most int) *registrations {
	return &registrations{registry: registry, store: store, most: most, held: map[name]*discovery.Registration{}}
}

// put registers an instance, or changes the one that is held.
func (g *registrations) put(ctx context.Context, i discovery.Instance) (isNew bool, err error) {
	at := name{i.Service, i.ID}
	reg, err := g.reserve(at)
	switch {
	case err != nil:
		return false, err
	case reg != nil:
		return false, g.change(ctx, reg, i)
	}
	reg, err = g.registry.Register(ctx, i)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		delete(g.held, at)
		return false, err
	}
	g.held[at] = reg
	return true, nil
}

// change changes an instance that is held. What it is to be is kept when etcd does not answer, and written as soon as it does.
func (g *registrations) change(ctx context.Context, reg *discovery.Registration, i discovery.Instance) error {
	err := reg.Update(ctx, i)
	switch {
	case err == nil, errors.Is(err, discovery.ErrInvalid), errors.Is(err, discovery.ErrTaken):
		return err
	case reg.Context().Err() != nil && !g.holds(reg, i):
		return errPending // which another request takes back
	}
	return fmt.Errorf("%w: %w", etcdkit.ErrUnknownOutcome, err)
}

// holds reports whether a registration is held for an instance.
func (g *registrations) holds(reg *discovery.Registration, i discovery.Instance) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held[name{i.Service, i.ID}] == reg
}

// errPending is the answer to whoever comes second.
var errPending = &refusal{
	status: http.StatusConflict, code: "taken", text: "the instance is being registered, or taken back, by another request",
}

// reserve returns the registration of an instance, or makes room for one.
func (g *registrations) reserve(at name) (*discovery.Registration, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	reg, ok := g.held[at]
	switch {
	case reg != nil:
		return reg, nil
	case ok:
		return nil, errPending
	case len(g.held) >= g.most:
		return nil, &refusal{status: http.StatusTooManyRequests, code: "too_many_registrations", text: "too many instances are registered here"}
	}
	g.held[at] = nil
	return nil, nil //nolint:nilnil // there is room
}

// remove takes back what is held. What others have registered is theirs.
func (g *registrations) remove(ctx context.Context, service, id string) error {
	at := name{service, id}
	g.mu.Lock()
	reg, ok := g.held[at]
	if reg != nil {
		g.held[at] = nil
	}
	g.mu.Unlock()
	switch {
	case reg != nil:
		return g.takeBack(at, reg)
	case ok:
		return errPending
	}
	there, err := g.store.Exists(ctx, "services/"+service+"/instances/"+id)
	switch {
	case err != nil:
		return err
	case there:
		return &refusal{status: http.StatusConflict, code: "taken", text: "the instance is not one that this gateway keeps registered"}
	}
	return &refusal{status: http.StatusNotFound, code: "not_found", text: "there is no such instance"}
}

// takeBack closes a registration. What it could not remove goes when its lease ends.
func (g *registrations) takeBack(at name, reg *discovery.Registration) error {
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.held, at)
	}()
	if err := reg.Close(); err != nil {
		return fmt.Errorf("%w: %w", etcdkit.ErrUnknownOutcome, err)
	}
	return nil
}

// count is how many are held.
func (g *registrations) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.held)
}
