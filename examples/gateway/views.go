package main

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/examples/settings"
)

// views is the services that are watched because somebody has asked for their instances. There is a bound to how many they
// are, and those that nobody asks for any more are closed: names come from requests, and each costs etcd a watch.
type views struct {
	registry *discovery.Registry
	set      settings.Watch

	mu   sync.Mutex
	open map[string]*view
	over bool

	stop chan struct{}
	done sync.WaitGroup
}

type view struct {
	*discovery.Service

	used time.Time
	real atomic.Bool // it was seen to have an instance
}

func newViews(registry *discovery.Registry, set settings.Watch) *views {
	v := &views{registry: registry, set: set, open: map[string]*view{}, stop: make(chan struct{})}
	v.done.Go(v.sweep)
	return v
}

// instances is who is registered for a service, and for how long changes may have been missed.
func (v *views) instances(ctx context.Context, service string) ([]discovery.Instance, time.Duration, error) {
	if one := v.known(service); one != nil {
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
	spare, ok := v.keep(service, opened)
	list, age := opened.Instances(), opened.Age()
	if spare != nil {
		_ = spare.Close() // always nil
	}
	if !ok {
		return nil, 0, etcdkit.ErrClosed
	}
	return list, age, nil
}

// known is the view of a service, if there is one.
func (v *views) known(service string) *view {
	v.mu.Lock()
	defer v.mu.Unlock()
	one := v.open[service]
	if one != nil {
		one.used = time.Now()
	}
	return one
}

// keep takes a view in, and returns the one that is to be closed, which may be the same.
func (v *views) keep(service string, opened *discovery.Service) (spare *discovery.Service, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.over:
		return opened, false
	case v.open[service] != nil: // another request was faster
		return opened, true
	}
	if len(v.open) >= v.set.MaxServices {
		oldest := slices.MinFunc(slices.Collect(maps.Values(v.open)), func(a, b *view) int { return a.used.Compare(b.used) })
		delete(v.open, oldest.Name())
		spare = oldest.Service
	}
	v.open[service] = &view{Service: opened, used: time.Now()}
	return spare, true
}

// sweep closes the views that nobody asks for.
func (v *views) sweep() {
	tick := time.NewTicker(max(time.Duration(v.set.Idle)/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			v.drop(time.Now().Add(-time.Duration(v.set.Idle)))
		case <-v.stop:
			return
		}
	}
}

// drop closes the views that were not used since a time.
func (v *views) drop(since time.Time) {
	v.mu.Lock()
	var idle []*view
	for service, one := range v.open {
		if one.used.Before(since) {
			idle = append(idle, one)
			delete(v.open, service)
		}
	}
	v.mu.Unlock()
	for _, one := range idle {
		_ = one.Close() // always nil
	}
}

// stats is what the views have, by service. One that never had an instance is left out: requests can name as many as they
// like, and each would be a series for good wherever the metrics are stored.
func (v *views) stats() map[string]discovery.Stats {
	v.mu.Lock()
	all := maps.Clone(v.open)
	v.mu.Unlock()
	out := make(map[string]discovery.Stats, len(all))
	for service, one := range all {
		st := one.Stats()
		if st.Instances > 0 || st.Malformed > 0 {
			one.real.Store(true)
		}
		if one.real.Load() {
			out[service] = st
		}
	}
	return out
}

// close closes all of them, for good.
func (v *views) close() {
	v.mu.Lock()
	v.over = true
	v.mu.Unlock()
	close(v.stop)
	v.done.Wait()
	v.drop(time.Now().Add(time.Hour)) // whatever is there
}
