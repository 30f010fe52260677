package main

import (
	"context"
	"net/http"
	"sync"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/kv"
)

// registrations is what was registered through this gateway, which it keeps in etcd for as long as it runs.
type registrations struct {
	registry *discovery.Registry
	store    *kv.Store
	most     int

	mu   sync.Mutex
	held map[name]*discovery.Registration // nil while it is being registered
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
		return false, reg.Update(ctx, i)
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

// reserve returns the registration of an instance, or makes room for one.
func (g *registrations) reserve(at name) (*discovery.Registration, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	reg, ok := g.held[at]
	switch {
	case reg != nil:
		return reg, nil
	case ok:
		return nil, &refusal{status: http.StatusConflict, code: "taken", text: "the instance is being registered by another request"}
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
		delete(g.held, at)
	}
	g.mu.Unlock()
	if reg != nil {
		return reg.Close()
	}
	there := ok
	if !ok {
		var err error
		if there, err = g.store.Exists(ctx, "services/"+service+"/instances/"+id); err != nil {
			return err
		}
	}
	if there {
		return &refusal{status: http.StatusConflict, code: "taken", text: "the instance was not registered through this gateway, or is being registered"}
	}
	return &refusal{status: http.StatusNotFound, code: "not_found", text: "there is no such instance"}
}

// count is how many are held.
func (g *registrations) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.held)
}
