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

// A Picker picks instances of a service according to a policy. For a while, it does not pick
// instances whose work has failed repeatedly ([Pick.Done], [WithEjection]), but it leaves out at
// most half of the instances. It is safe for concurrent use and need not be closed. A pick sends
// nothing, and allocates nothing unless the candidates have changed.
type Picker struct {
	v             *view
	policy        Policy
	placement     *placement
	maxFailures   int32
	ejection      time.Duration
	errNoInstance error

	current atomic.Pointer[pickSet]
	mu      sync.Mutex   // guards the fields below
	known   []*candidate // sorted by ID
}

// Picker returns a new picker. Filters always apply; a preferred zone applies while it has enough
// instances. Each picker tracks failures and load separately, so create one and keep it. If p is
// nil, the policy is RoundRobin.
func (s *Service) Picker(p Policy, o ...PlaceOption) *Picker {
	if p == nil {
		p = RoundRobin()
	}
	return &Picker{
		v: s.v, policy: p, placement: newPlacement(o), ejection: s.r.ejection,
		maxFailures:   int32(min(s.r.failures, 1<<30)), //nolint:gosec // bounded
		errNoInstance: opError("pick", s.v.service, ErrNoInstance),
	}
}

// pickSet is the set of candidates. It is immutable except for the candidates' counters.
type pickSet struct {
	snapshot   *snapshot
	candidates []*candidate
	validUntil time.Time // when the next ejection ends
	hasNext    bool      // validUntil is set

	uniform bool // all weights are equal
	sums    []int
	hashes  []uint64
}

// candidate is an instance and the picker's state of it.
type candidate struct {
	instance            *Instance
	hash                uint64
	load                *atomic.Int64
	consecutiveFailures *atomic.Int32
	ejectedUntil        time.Time // guarded by the picker's lock
	ejections           int       // in a row; guarded by the picker's lock
}

// A Pick is a picked instance. Call Done when the work on it has ended.
type Pick struct {
	// Instance is the picked instance. It is shared; do not modify it.
	Instance *Instance

	candidate *candidate
	picker    *Picker
}

// Pick picks an instance. It returns ErrNoInstance if there is none.
func (p *Picker) Pick() (Pick, error) { return p.PickFor("") }

// PickFor picks an instance for a key. With the policy [Sticky], equal keys get the same instance
// while the candidates stay the same.
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
	c := s.candidates[i]
	c.load.Add(1)
	return Pick{Instance: c.instance, candidate: c, picker: p}, nil
}

// Done reports the end and the result of the work. An error counts against the instance, except for
// cancellation (context.Canceled and gRPC's code Canceled). Pass nil for errors the instance is not
// to blame for, such as a bad request. Call Done once per successful pick: without it, the pick
// counts as load until another process has the ID.
func (k Pick) Done(err error) {
	if k.candidate == nil {
		return
	}
	if k.candidate.load.Add(-1) < 0 { // second call
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

// outdated reports whether s no longer matches the instances.
func (p *Picker) outdated(s *pickSet) bool {
	return s == nil || s.snapshot != p.v.current.Load() || s.hasNext && !time.Now().Before(s.validUntil)
}

// rebuild rebuilds and returns the set of candidates.
func (p *Picker) rebuild() *pickSet {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.current.Load(); !p.outdated(s) { // rebuilt by another goroutine
		return s
	}
	s := p.build(p.v.current.Load(), time.Now())
	p.current.Store(s)
	return s
}

// build returns the set of candidates of a snapshot. p.mu must be held.
func (p *Picker) build(from *snapshot, now time.Time) *pickSet {
	list := p.placement.candidates(from.list)
	candidates := make([]*candidate, 0, len(list))
	known := p.known // both are sorted by ID
	for _, i := range list {
		for len(known) > 0 && known[0].instance.ID < i.ID {
			known = known[1:]
		}
		var old *candidate
		if len(known) > 0 && known[0].instance.ID == i.ID {
			old = known[0]
		}
		candidates = append(candidates, p.carryOver(old, i))
	}
	p.known = candidates
	s := &pickSet{snapshot: from}
	candidates, s.validUntil = withoutEjected(candidates, now)
	s.hasNext = !s.validUntil.IsZero()
	s.candidates = preferredZone(p.placement, candidates, func(c *candidate) string { return c.instance.Zone })
	s.prepare()
	return s
}

// carryOver returns the candidate of i with the state of old, unless i is another process.
func (p *Picker) carryOver(old *candidate, i *Instance) *candidate {
	if old == nil {
		return &candidate{instance: i, hash: hash(i.ID), load: new(atomic.Int64), consecutiveFailures: new(atomic.Int32)}
	}
	if old.instance == i {
		return old
	}
	c := &candidate{instance: i, hash: old.hash, load: old.load, consecutiveFailures: old.consecutiveFailures, ejectedUntil: old.ejectedUntil, ejections: old.ejections}
	if !i.Registered.Equal(old.instance.Registered) || i.Addr() != old.instance.Addr() {
		return &candidate{instance: i, hash: old.hash, load: new(atomic.Int64), consecutiveFailures: new(atomic.Int32)}
	}
	return c
}

// prepare computes what the policies need.
func (s *pickSet) prepare() {
	s.uniform = true
	s.sums, s.hashes = make([]int, len(s.candidates)), make([]uint64, len(s.candidates))
	sum := 0
	for i, c := range s.candidates {
		sum += c.instance.weight()
		s.sums[i], s.hashes[i] = sum, c.hash
		s.uniform = s.uniform && c.instance.weight() == s.candidates[0].instance.weight()
	}
}
