package discovery

import (
	"context"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// A Service is a view of the instances of a service. It is kept in memory and follows etcd, so
// reading it costs no RPC. While etcd is unavailable, it shows the last known instances; see Age.
// It is safe for concurrent use.
type Service struct {
	r *Registry
	v *view

	ctx    context.Context //nolint:containedctx // of the functions given to Follow
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // does not grow once closed
	once   sync.Once
}

func newService(r *Registry, v *view) *Service {
	s := &Service{r: r, v: v}
	s.ctx, s.cancel = context.WithCancel(r.ctx)
	return s
}

// Name returns the name of the service.
func (s *Service) Name() string { return s.v.service }

// Instances returns the instances that match all filters, sorted by ID. Without filters, it
// includes those that are [Draining]. The slice belongs to the caller; Tags and Metadata are
// shared. After Close it returns the last known instances.
func (s *Service) Instances(f ...Filter) []Instance {
	return s.v.current.Load().instances(f)
}

// instances returns the instances that match all filters.
func (s *snapshot) instances(f []Filter) []Instance {
	out := make([]Instance, 0, len(s.list))
	for _, i := range s.list {
		if passes(i, f) {
			out = append(out, *i)
		}
	}
	return out
}

// Follow calls f with the instances now and after each change. Calls are made one at a time on a
// goroutine of their own; a slow f gets the latest instances. The slice belongs to f; Tags and
// Metadata are shared. After stop returns, no new call begins, but one may still be running; f
// itself may call stop. A panic of f is recovered and logged.
func (s *Service) Follow(f func([]Instance)) (stop func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	changed := make(chan struct{}, 1)
	changed <- struct{}{}
	var calls sync.Mutex // held while stop and the start of a call decide
	run := func() {
		defer s.v.unfollow(changed)
		var last *snapshot
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			now := s.v.current.Load()
			if last != nil && last.equal(now) {
				continue
			}
			last = now
			list := now.instances(nil)
			calls.Lock()
			active := ctx.Err() == nil
			calls.Unlock()
			if active {
				s.call(f, list)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.v.follow(changed)
		s.wg.Go(run)
	}
	return func() {
		calls.Lock()
		defer calls.Unlock()
		cancel()
	}
}

// call calls f and logs its panic.
func (s *Service) call(f func([]Instance), list []Instance) {
	defer func() {
		if v := recover(); v != nil {
			s.r.logger.ErrorContext(s.ctx, "follow callback panicked", "service", s.v.service, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	f(list)
}

// equal reports whether two snapshots hold equal instances.
func (s *snapshot) equal(o *snapshot) bool {
	return s == o || slices.EqualFunc(s.list, o.list, func(a, b *Instance) bool { return a == b || a.same(b) })
}

// Age bounds for how long changes may have been missed. While the watch is live, it is at most about
// 36 s, because a quiet watch is checked twice a minute; changes are still shown within
// milliseconds. While etcd is unreachable, it grows.
func (s *Service) Age() time.Duration { return s.v.watch.age() }

// Err returns why the watch is down. It returns nil if the watch is up or the reason is not known
// yet.
func (s *Service) Err() error {
	switch {
	case s.ctx.Err() != nil:
		return opError("service", s.v.service, errs.ClosedError("view"))
	case s.v.watch.IsLive():
		return nil
	}
	return s.v.watch.cause()
}

// Stats holds counters of a view. Views of the same name share them.
type Stats struct {
	Instances int `json:"instances"` // shown
	Draining  int `json:"draining"`  // of those, draining
	Held      int `json:"held"`      // of those, lost and held back
	Malformed int `json:"malformed"` // entries that cannot be decoded

	Age  time.Duration `json:"age"`  // see Service.Age
	Live bool          `json:"live"` // whether the watch is live

	Updates  uint64 `json:"updates"`  // changes and lists received
	BadSeen  uint64 `json:"badSeen"`  // bad entries received
	Restarts uint64 `json:"restarts"` // watches reopened
	Users    int    `json:"users"`    // views that share the watch, including resolvers
}

// Stats returns the view's counters. It sends nothing.
func (s *Service) Stats() Stats {
	return s.r.viewStats(s.v)
}

// viewStats returns the counters of a view.
func (r *Registry) viewStats(v *view) Stats {
	st := Stats{Age: v.watch.age(), Live: v.watch.IsLive(), Restarts: v.watch.Restarts()}
	r.mu.Lock()
	st.Users = v.users
	r.mu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	st.Instances, st.Malformed, st.Updates, st.BadSeen = len(v.records.entries), len(v.malformed), v.updates, v.malformedSeen
	for _, e := range v.records.entries {
		if !e.up() {
			st.Draining++
		}
		if !e.held.IsZero() {
			st.Held++
		}
	}
	return st
}

// Close closes the view, and the watch if this was the last view of its name, and waits for the
// functions given to Follow, which must not call Close. It is idempotent and always returns nil.
// Pickers continue with the last known instances.
func (s *Service) Close() error {
	s.once.Do(func() {
		s.cancel()
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.wg.Wait()
		s.r.mu.Lock()
		delete(s.r.services, s)
		s.r.mu.Unlock()
		s.r.release(s.v)
	})
	return nil
}
