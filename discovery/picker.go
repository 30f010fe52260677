package discovery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Picker picks instances of a service by a policy, and leaves those alone for a while that fail. It is safe for concurrent
// use, has nothing to close, and a pick costs no RPC and no allocation.
type Picker struct {
	v             *view
	policy        Policy
	placement     *placement
	maxFailures   int32
	ejection      time.Duration
	errNoInstance error

	current atomic.Pointer[pickSet]
	mu      sync.Mutex   // of what follows
	known   []*candidate // in the order of their IDs
}

// Picker makes a picker. Of the options, filters hold always, and a preferred zone while there are enough. Each picker has
// its own view of failures and load: make one and keep it. A nil policy is RoundRobin.
func (s *Service) Picker(p Policy, o ...PlaceOption) *Picker {
	if p == nil {
		p = RoundRobin()
	}
	return &Picker{
		v: s.v, policy: p, placement: newPlacement(o), maxFailures: int32(min(s.r.failures, 1<<30)), ejection: s.r.ejection, //nolint:gosec // bounded
		errNoInstance: opError("pick", s.v.service, ErrNoInstance),
	}
}

// pickSet is what picks choose from. It does not change, but for the counters in the nodes.
type pickSet struct {
	snapshot   *snapshot
	candidates []*candidate
	validUntil time.Time // when it is outdated because an ejection ends
	hasNext    bool      // if there is such a time

	uniform bool // all weights are equal
	sums    []int
	hashes  []uint64
}

// candidate is what a picker knows of an instance.
type candidate struct {
	instance            *Instance
	hash                uint64
	load                *atomic.Int64
	consecutiveFailures *atomic.Int32 // failures
	ejectedUntil        time.Time     // ejected; belongs to the picker's lock, as does times
	ejections           int           // ejected so far
}

// Pick is an instance that was picked, and how it went.
type Pick struct {
	// Instance is what was picked. It is shared: do not change it.
	Instance *Instance

	candidate *candidate
	picker    *Picker
}

// Pick picks an instance: ErrNoInstance if there is none.
func (p *Picker) Pick() (Pick, error) { return p.PickFor("") }

// PickFor picks an instance for a key, which is the same for the same key where the policy is [Sticky].
func (p *Picker) PickFor(key string) (Pick, error) {
	s := p.current.Load()
	if p.outdated(s) {
		s = p.rebuild()
	}
	if len(s.candidates) == 0 {
		return Pick{}, p.errNoInstance
	}
	i := p.policy.Choose(Candidates{s}, key)
	if i < 0 || i >= len(s.candidates) {
		return Pick{}, opError("pick", p.v.service, fmt.Errorf("policy %T chose %d of %d", p.policy, i, len(s.candidates)))
	}
	n := s.candidates[i]
	n.load.Add(1)
	return Pick{Instance: n.instance, candidate: n, picker: p}, nil
}

// Done says that the work is done, and what came of it: an error counts against the instance, except that the work was
// canceled (context.Canceled, and gRPC's code of that name). Report nil for errors that are not the instance's, such as a bad
// request. Call it once for each pick that succeeded: what is never done counts as load until another process has the ID,
// what is done twice takes the load of somebody else off.
func (k Pick) Done(err error) {
	if k.candidate == nil {
		return
	}
	if k.candidate.load.Add(-1) < 0 { // it was done twice
		k.candidate.load.Add(1)
	}
	switch {
	case err == nil:
		if k.candidate.consecutiveFailures.Load() != 0 {
			k.candidate.consecutiveFailures.Store(0)
		}
	case k.picker.maxFailures == 0 || errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled:
	case k.candidate.consecutiveFailures.Add(1) >= k.picker.maxFailures:
		k.picker.eject(k.candidate.instance.ID)
	}
}

// outdated reports whether a slate is not of the instances as they are.
func (p *Picker) outdated(s *pickSet) bool {
	return s == nil || s.snapshot != p.v.current.Load() || s.hasNext && !time.Now().Before(s.validUntil)
}

// rebuild makes the slate of the instances as they are.
func (p *Picker) rebuild() *pickSet {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.current.Load(); !p.outdated(s) { // another pick was faster
		return s
	}
	s := p.build(p.v.current.Load(), time.Now())
	p.current.Store(s)
	return s
}

// build is rebuild for whoever has the lock.
func (p *Picker) build(from *snapshot, now time.Time) *pickSet {
	list := p.placement.candidates(from.list)
	nodes := make([]*candidate, 0, len(list))
	known := p.known // both are in the order of the IDs
	for _, i := range list {
		for len(known) > 0 && known[0].instance.ID < i.ID {
			known = known[1:]
		}
		var old *candidate
		if len(known) > 0 && known[0].instance.ID == i.ID {
			old = known[0]
		}
		nodes = append(nodes, p.carryOver(old, i))
	}
	p.known = nodes
	s := &pickSet{snapshot: from}
	nodes, s.validUntil = withoutEjected(nodes, now)
	s.hasNext = !s.validUntil.IsZero()
	s.candidates = preferredZone(p.placement, nodes, func(n *candidate) string { return n.instance.Zone })
	s.prepare()
	return s
}

// carryOver carries over what is known of an instance, unless it is another one by now.
func (p *Picker) carryOver(old *candidate, i *Instance) *candidate {
	if old == nil {
		return &candidate{instance: i, hash: hash(i.ID), load: new(atomic.Int64), consecutiveFailures: new(atomic.Int32)}
	}
	if old.instance == i {
		return old
	}
	n := &candidate{instance: i, hash: old.hash, load: old.load, consecutiveFailures: old.consecutiveFailures, ejectedUntil: old.ejectedUntil, ejections: old.ejections}
	if !i.Registered.Equal(old.instance.Registered) || i.Addr() != old.instance.Addr() {
		return &candidate{instance: i, hash: old.hash, load: new(atomic.Int64), consecutiveFailures: new(atomic.Int32)}
	}
	return n
}

// prepare computes what policies need.
func (s *pickSet) prepare() {
	s.uniform = true
	s.sums, s.hashes = make([]int, len(s.candidates)), make([]uint64, len(s.candidates))
	sum := 0
	for i, n := range s.candidates {
		sum += n.instance.weight()
		s.sums[i], s.hashes[i] = sum, n.hash
		s.uniform = s.uniform && n.instance.weight() == s.candidates[0].instance.weight()
	}
}
