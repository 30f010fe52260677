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
	v       *view
	policy  Policy
	where   *placement
	fails   int32
	base    time.Duration
	nothing error

	now atomic.Pointer[slate]
	mu  sync.Mutex // of what follows
	all []*node    // in the order of their IDs
}

// Picker makes a picker. Of the options, filters hold always, and a preferred zone while there are enough. Each picker has
// its own view of failures and load: make one and keep it. A nil policy is RoundRobin.
func (s *Service) Picker(p Policy, o ...PlaceOption) *Picker {
	if p == nil {
		p = RoundRobin()
	}
	return &Picker{
		v: s.v, policy: p, where: newPlacement(o), fails: int32(min(s.r.failures, 1<<30)), base: s.r.ejection, //nolint:gosec // bounded
		nothing: fail("pick", s.v.service, ErrNoInstance),
	}
}

// slate is what picks choose from. It does not change, but for the counters in the nodes.
type slate struct {
	from  *snapshot
	nodes []*node
	next  time.Time // when it is outdated because an ejection ends
	aging bool      // if there is such a time

	uniform bool // all weights are equal
	sums    []int
	hashes  []uint64
}

// node is what a picker knows of an instance.
type node struct {
	instance *Instance
	hash     uint64
	load     *atomic.Int64
	inARow   *atomic.Int32 // failures
	until    time.Time     // ejected; belongs to the picker's lock, as does times
	times    int           // ejected so far
}

// Pick is an instance that was picked, and how it went.
type Pick struct {
	// Instance is what was picked. It is shared: do not change it.
	Instance *Instance

	n *node
	p *Picker
}

// Pick picks an instance: ErrNoInstance if there is none.
func (p *Picker) Pick() (Pick, error) { return p.PickFor("") }

// PickFor picks an instance for a key, which is the same for the same key where the policy is [Sticky].
func (p *Picker) PickFor(key string) (Pick, error) {
	s := p.now.Load()
	if p.outdated(s) {
		s = p.rebuild()
	}
	if len(s.nodes) == 0 {
		return Pick{}, p.nothing
	}
	i := p.policy.Choose(Candidates{s}, key)
	if i < 0 || i >= len(s.nodes) {
		return Pick{}, fail("pick", p.v.service, fmt.Errorf("policy %T chose %d of %d", p.policy, i, len(s.nodes)))
	}
	n := s.nodes[i]
	n.load.Add(1)
	return Pick{Instance: n.instance, n: n, p: p}, nil
}

// Done says that the work is done, and what came of it: an error counts against the instance, except that the work was
// canceled (context.Canceled, and gRPC's code of that name). Report nil for errors that are not the instance's, such as a bad
// request. Call it once for each pick that succeeded: what is never done counts as load until another process has the ID,
// what is done twice takes the load of somebody else off.
func (k Pick) Done(err error) {
	if k.n == nil {
		return
	}
	if k.n.load.Add(-1) < 0 { // it was done twice
		k.n.load.Add(1)
	}
	switch {
	case err == nil:
		if k.n.inARow.Load() != 0 {
			k.n.inARow.Store(0)
		}
	case k.p.fails == 0 || errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled:
	case k.n.inARow.Add(1) >= k.p.fails:
		k.p.eject(k.n.instance.ID)
	}
}

// outdated reports whether a slate is not of the instances as they are.
func (p *Picker) outdated(s *slate) bool {
	return s == nil || s.from != p.v.now.Load() || s.aging && !time.Now().Before(s.next)
}

// rebuild makes the slate of the instances as they are.
func (p *Picker) rebuild() *slate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.now.Load(); !p.outdated(s) { // another pick was faster
		return s
	}
	s := p.build(p.v.now.Load(), time.Now())
	p.now.Store(s)
	return s
}

// build is rebuild for whoever has the lock.
func (p *Picker) build(from *snapshot, now time.Time) *slate {
	list := p.where.candidates(from.list)
	nodes := make([]*node, 0, len(list))
	known := p.all // both are in the order of the IDs
	for _, i := range list {
		for len(known) > 0 && known[0].instance.ID < i.ID {
			known = known[1:]
		}
		var old *node
		if len(known) > 0 && known[0].instance.ID == i.ID {
			old = known[0]
		}
		nodes = append(nodes, p.renew(old, i))
	}
	p.all = nodes
	s := &slate{from: from}
	nodes, s.next = sparing(nodes, now)
	s.aging = !s.next.IsZero()
	s.nodes = near(p.where, nodes, func(n *node) string { return n.instance.Zone })
	s.prepare()
	return s
}

// renew carries over what is known of an instance, unless it is another one by now.
func (p *Picker) renew(old *node, i *Instance) *node {
	if old == nil {
		return &node{instance: i, hash: hash(i.ID), load: new(atomic.Int64), inARow: new(atomic.Int32)}
	}
	if old.instance == i {
		return old
	}
	n := &node{instance: i, hash: old.hash, load: old.load, inARow: old.inARow, until: old.until, times: old.times}
	if !i.Registered.Equal(old.instance.Registered) || i.Addr() != old.instance.Addr() {
		return &node{instance: i, hash: old.hash, load: new(atomic.Int64), inARow: new(atomic.Int32)}
	}
	return n
}

// prepare computes what policies need.
func (s *slate) prepare() {
	s.uniform = true
	s.sums, s.hashes = make([]int, len(s.nodes)), make([]uint64, len(s.nodes))
	sum := 0
	for i, n := range s.nodes {
		sum += n.instance.weight()
		s.sums[i], s.hashes[i] = sum, n.hash
		s.uniform = s.uniform && n.instance.weight() == s.nodes[0].instance.weight()
	}
}
