package discovery

import (
	"context"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Service is a view of the instances of a service. It is in memory and follows etcd: reading it costs no RPC. It goes on
// showing the last instances while etcd is away; Age tells. It is safe for concurrent use.
type Service struct {
	r *Registry
	v *view

	ctx    context.Context //nolint:containedctx // the life of the functions given to Follow
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

// Name is the name of the service.
func (s *Service) Name() string { return s.v.service }

// Instances returns the instances, in the order of their IDs: all of them, those that are [Draining] included, or those
// that pass all filters. The slice is the caller's, Tags and Metadata of the instances are shared. After Close it returns
// the last ones.
func (s *Service) Instances(f ...Filter) []Instance {
	return s.v.current.Load().instances(f)
}

// instances are those that pass all filters.
func (s *snapshot) instances(f []Filter) []Instance {
	out := make([]Instance, 0, len(s.list))
	for _, i := range s.list {
		if passes(i, f) {
			out = append(out, *i)
		}
	}
	return out
}

// Follow calls f with the instances, at once and then after each change, one at a time, in a goroutine of its own. A slow f
// misses what is outdated when it comes back: it is told of the latest. The slice is f's, Tags and Metadata of the
// instances are shared. No call begins after stop has returned; one may still run, and f itself may call stop. A panic of f
// is contained and logged.
func (s *Service) Follow(f func([]Instance)) (stop func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	bell := make(chan struct{}, 1)
	bell <- struct{}{}
	var calls sync.Mutex // no call begins once stop has had it, except that f may call stop
	run := func() {
		defer s.v.unfollow(bell)
		var last *snapshot
		for {
			select {
			case <-bell:
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
			begin := ctx.Err() == nil
			calls.Unlock()
			if begin {
				s.tell(f, list)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.v.follow(bell)
		s.wg.Go(run)
	}
	return func() {
		calls.Lock()
		defer calls.Unlock()
		cancel()
	}
}

// run calls a user's function.
func (s *Service) tell(f func([]Instance), list []Instance) {
	defer func() {
		if v := recover(); v != nil {
			s.r.logger.ErrorContext(s.ctx, "a function given to follow panicked", "service", s.v.service, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	f(list)
}

// equal reports whether two snapshots show the same.
func (s *snapshot) equal(o *snapshot) bool {
	return s == o || slices.EqualFunc(s.list, o.list, func(a, b *Instance) bool { return a == b || a.same(b) })
}

// Age is for how long changes may have been missed. While the watch is well it is about a second at the most, since a quiet
// watch is asked once a second; while etcd is away, it grows.
func (s *Service) Age() time.Duration { return s.v.watch.age() }

// Err is why the watch is down, nil while it is not and as long as that is not known.
func (s *Service) Err() error {
	switch {
	case s.ctx.Err() != nil:
		return opError("service", s.v.service, errs.ClosedError("view"))
	case s.v.watch.isLive():
		return nil
	}
	return s.v.watch.cause()
}

// Stats is what a view has and did; views of one name share it.
type Stats struct {
	Instances int `json:"instances"` // shown at present
	Draining  int `json:"draining"`  // of those, which are about to leave
	Held      int `json:"held"`      // of those, which are gone and held back
	Malformed int `json:"malformed"` // keys that are there and cannot be used

	Age  time.Duration `json:"age"`  // see [Service.Age]
	Live bool          `json:"live"` // changes are told as they happen

	Updates  uint64 `json:"updates"`  // changes and lists that were taken in
	BadSeen  uint64 `json:"badSeen"`  // values that could not be used, each time that one came
	Restarts uint64 `json:"restarts"` // watches that ended and were begun anew
	Users    int    `json:"users"`    // views that share the watch, resolvers included
}

// Stats returns the counters. It sends nothing.
func (s *Service) Stats() Stats {
	v := s.v
	st := Stats{Age: s.Age(), Live: v.watch.isLive(), Restarts: v.watch.restarts.Load()}
	s.r.mu.Lock()
	st.Users = v.users
	s.r.mu.Unlock()
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

// Close ends the view, and the watch if it was the last of its name, and waits for the functions given to Follow, which
// must not call it. It is idempotent and always nil. Pickers go on with the last instances.
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
