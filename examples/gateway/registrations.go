package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/kv"
)

// registrations holds the instances that were registered through this gateway. The gateway keeps
// the lease of each alive for ttl after the last request that has registered or renewed it.
type registrations struct {
	registry *discovery.Registry
	store    *kv.Store
	log      *slog.Logger
	ttl      time.Duration
	limit    int

	mu      sync.Mutex
	held    map[instanceName]*registration
	closed  bool
	expired sync.WaitGroup // removals by expire
}

// instanceName names an instance.
type instanceName struct{ service, id string }

// registration is an instance that is held, or the place of one that is being registered or
// removed, in which case its embedded registration is nil.
type registration struct {
	*discovery.Registration

	renewed time.Time
	timer   *time.Timer
}

func newRegistrations(
	registry *discovery.Registry, store *kv.Store, log *slog.Logger, ttl time.Duration, limit int,
) *registrations {
	return &registrations{
		registry: registry, store: store, log: log, ttl: ttl, limit: limit,
		held: map[instanceName]*registration{},
	}
}

// put registers an instance, or renews the one that is held and changes it to i.
func (g *registrations) put(ctx context.Context, i discovery.Instance) (isNew bool, err error) {
	at := instanceName{i.Service, i.ID}
	reg, err := g.renewOrReserve(at)
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
	g.held[at] = &registration{Registration: reg, renewed: time.Now()}
	if !g.closed {
		g.held[at].timer = time.AfterFunc(g.ttl, func() { g.expire(at) })
	}
	return true, nil
}

// change changes an instance that is held. If etcd does not answer, the change is made once it
// does.
func (g *registrations) change(ctx context.Context, reg *discovery.Registration, i discovery.Instance) error {
	err := reg.Update(ctx, i)
	switch {
	case err == nil, errors.Is(err, discovery.ErrInvalid), errors.Is(err, discovery.ErrTaken):
		return err
	case reg.Context().Err() != nil && !g.holds(reg, i):
		return errPending
	}
	return fmt.Errorf("%w: %w", etcdkit.ErrUnknownOutcome, err)
}

// holds reports whether reg is the registration of i.
func (g *registrations) holds(reg *discovery.Registration, i discovery.Instance) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.held[instanceName{i.Service, i.ID}]
	return one != nil && one.Registration == reg
}

// errPending refuses a request for an instance that another request is working on.
var errPending = &refusal{
	status: http.StatusConflict, code: "taken", text: "the instance is being registered or removed",
}

// renewOrReserve renews the instance and returns its registration. If there is none, it reserves a
// place and returns nil.
func (g *registrations) renewOrReserve(at instanceName) (*discovery.Registration, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one, ok := g.held[at]
	switch {
	case ok && one.Registration == nil:
		return nil, errPending
	case ok:
		one.renewed = time.Now()
		return one.Registration, nil
	case len(g.held) >= g.limit:
		return nil, &refusal{
			status: http.StatusTooManyRequests, code: "too_many_registrations",
			text: "too many instances are registered through this gateway",
		}
	}
	g.held[at] = &registration{}
	return nil, nil //nolint:nilnil // the place is reserved
}

// expire removes an instance that was not renewed in time. The timer calls it, and it sets the
// timer again if the instance was renewed.
func (g *registrations) expire(at instanceName) {
	g.mu.Lock()
	one := g.held[at]
	if g.closed || one == nil || one.Registration == nil {
		g.mu.Unlock()
		return
	}
	if left := time.Until(one.renewed.Add(g.ttl)); left > 0 {
		one.timer.Reset(left)
		g.mu.Unlock()
		return
	}
	reg := g.claim(at, one)
	g.expired.Add(1)
	g.mu.Unlock()
	defer g.expired.Done()
	ctx := reg.Context()
	err := g.takeBack(at, reg)
	g.log.InfoContext(ctx, "registration expired", "service", at.service, "instance", at.id, "error", err)
}

// claim takes the registration out of its place, which stays reserved until it is closed. g.mu is
// held.
func (g *registrations) claim(at instanceName, one *registration) *discovery.Registration {
	if one.timer != nil {
		one.timer.Stop()
	}
	g.held[at] = &registration{}
	return one.Registration
}

// remove removes an instance that is held. It refuses to remove one that others have registered.
func (g *registrations) remove(ctx context.Context, service, id string) error {
	at := instanceName{service, id}
	var reg *discovery.Registration
	g.mu.Lock()
	one, ok := g.held[at]
	if ok && one.Registration != nil {
		reg = g.claim(at, one)
	}
	g.mu.Unlock()
	switch {
	case reg != nil:
		return g.takeBack(at, reg)
	case ok:
		return errPending
	}
	exists, err := g.store.Exists(ctx, "services/"+service+"/instances/"+id)
	switch {
	case err != nil:
		return err
	case exists:
		return &refusal{
			status: http.StatusConflict, code: "taken", text: "the instance was not registered through this gateway",
		}
	}
	return &refusal{status: http.StatusNotFound, code: "not_found", text: "there is no such instance"}
}

// takeBack closes a registration. If it cannot remove the key, the key expires with its lease.
func (g *registrations) takeBack(at instanceName, reg *discovery.Registration) error {
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

// close stops all timers and waits for removals. The registry closes the registrations themselves.
func (g *registrations) close() {
	g.mu.Lock()
	g.closed = true
	for _, one := range g.held {
		if one.timer != nil {
			one.timer.Stop()
		}
	}
	g.mu.Unlock()
	g.expired.Wait()
}

// count returns how many instances are held.
func (g *registrations) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.held)
}
