package main

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/examples/settings"
)

// views holds the services that are watched because clients have asked for their instances. Their
// number is bounded, and idle ones are closed: names come from requests, and each costs a watch.
type views struct {
	registry *discovery.Registry
	set      settings.Watch

	mu     sync.Mutex
	open   map[string]*view
	closed bool

	stop chan struct{}
	done sync.WaitGroup
}

type view struct {
	*discovery.Service

	used time.Time
}

func newViews(registry *discovery.Registry, set settings.Watch) *views {
	v := &views{registry: registry, set: set, open: map[string]*view{}, stop: make(chan struct{})}
	v.done.Go(v.closeIdle)
	return v
}

// instances returns the instances of a service, and for how long changes may have been missed.
func (v *views) instances(ctx context.Context, service string) ([]discovery.Instance, time.Duration, error) {
	if one := v.lookup(service); one != nil {
		return one.Instances(), one.Age(), nil
	}
	opened, err := v.registry.OpenService(ctx, service)
	if err != nil {
		return nil, 0, err
	}
	if !v.set.Enabled {
		defer opened.Close() //nolint:errcheck // always nil
		return opened.Instances(), opened.Age(), nil
	}
	surplus, ok := v.add(service, opened)
	list, age := opened.Instances(), opened.Age()
	if surplus != nil {
		_ = surplus.Close() // always nil
	}
	if !ok {
		return nil, 0, etcdkit.ErrClosed
	}
	return list, age, nil
}

// lookup returns the view of a service, or nil.
func (v *views) lookup(service string) *view {
	v.mu.Lock()
	defer v.mu.Unlock()
	one := v.open[service]
	if one != nil {
		one.used = time.Now()
	}
	return one
}

// add adds a view and returns the one that the caller must close, which may be opened itself.
func (v *views) add(service string, opened *discovery.Service) (surplus *discovery.Service, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.closed:
		return opened, false
	case v.open[service] != nil: // another request was faster
		return opened, true
	}
	if len(v.open) >= v.set.MaxServices {
		byUse := func(a, b *view) int { return a.used.Compare(b.used) }
		oldest := slices.MinFunc(slices.Collect(maps.Values(v.open)), byUse)
		delete(v.open, oldest.Name())
		surplus = oldest.Service
	}
	v.open[service] = &view{Service: opened, used: time.Now()}
	return surplus, true
}

// closeIdle closes idle views until stop is closed.
func (v *views) closeIdle() {
	tick := time.NewTicker(max(time.Duration(v.set.Idle)/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			v.closeUnused(time.Now().Add(-time.Duration(v.set.Idle)))
		case <-v.stop:
			return
		}
	}
}

// closeUnused closes the views that were last used before a time.
func (v *views) closeUnused(before time.Time) {
	v.mu.Lock()
	var idle []*view
	for service, one := range v.open {
		if one.used.Before(before) {
			idle = append(idle, one)
			delete(v.open, service)
		}
	}
	v.mu.Unlock()
	for _, one := range idle {
		_ = one.Close() // always nil
	}
}

// close closes all views.
func (v *views) close() {
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	close(v.stop)
	v.done.Wait()
	v.closeUnused(time.Now().Add(time.Hour)) // all of them
}
