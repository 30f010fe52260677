package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

// Member is a member of the simulated cluster. The mutex of its Sim guards its fields, other than
// listener and pausedAt, which the mutex of the network guards.
type Member struct {
	sim  *Sim
	name string
	id   uint64

	listener *listener // nil while the member is down
	pausedAt time.Time // zero unless the member is paused

	server    *grpc.Server
	epoch     int  // counts starts
	running   bool // false after a crash
	paused    bool
	isolated  bool          // from its peers; clients still reach it
	applyLag  time.Duration // in addition to the usual one
	diskDelay time.Duration // of commits while it leads
	postponed []func()      // due while it was paused

	leader      *Member // as far as it knows
	term        uint64
	contact     time.Time // when it last heard from the leader
	noLeaderAt  time.Time // since when it knows of none
	applied     int       // entries of the log
	applying    int       // entries whose application is scheduled
	onApplied   []func() bool
	store       *store
	lessor      lessor
	tokens      map[string]*token
	watches     map[*watchStream]struct{}
	needsLeader map[*serverStream]struct{} // streams that end without a leader
}

// address returns the address of the member.
func (m *Member) address() string { return m.name + ":2379" }

// Name returns the name: m1, m2 and so on.
func (m *Member) Name() string { return m.name }

// boot starts the member. The caller holds the mutex of Sim.
func (m *Member) boot() {
	m.epoch++
	m.running, m.paused, m.leader, m.noLeaderAt = true, false, nil, time.Now()
	m.tokens, m.watches = map[string]*token{}, map[*watchStream]struct{}{}
	m.needsLeader, m.onApplied = map[*serverStream]struct{}{}, nil
	m.postponed = nil
	m.applying = m.applied
	m.lessor.demote()
	srv := grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.MaxRecvMsgSize(maxRequestBytes+512<<10),
		grpc.ChainUnaryInterceptor(m.unary), grpc.ChainStreamInterceptor(m.stream),
	)
	pb.RegisterKVServer(srv, &kvServer{m: m})
	pb.RegisterLeaseServer(srv, &leaseServer{m: m})
	pb.RegisterWatchServer(srv, &watchServer{m: m})
	pb.RegisterClusterServer(srv, &clusterServer{m: m})
	pb.RegisterMaintenanceServer(srv, &maintenanceServer{m: m})
	pb.RegisterAuthServer(srv, &authServer{m: m})
	healthpb.RegisterHealthServer(srv, health.NewServer())
	l := newListener()
	m.server = srv
	m.sim.network.mu.Lock()
	m.listener, m.pausedAt = l, time.Time{}
	m.sim.network.mu.Unlock()
	m.sim.serving.Go(func() { _ = srv.Serve(l) })
}

// shutDown stops the member at once. The caller holds the mutex of Sim.
func (m *Member) shutDown() {
	if !m.running {
		return
	}
	m.running, m.paused = false, false
	m.epoch++
	m.lessor.demote()
	m.sim.network.mu.Lock()
	l := m.listener
	m.listener, m.pausedAt = nil, time.Time{}
	m.sim.network.mu.Unlock()
	m.sim.network.each("", m.name, (*link).reset)
	_ = l.Close()
	m.sim.serving.Go(m.server.Stop)
}

// do calls f now, or when the member resumes. A member that restarts forgets f.
func (m *Member) do(f func()) {
	switch {
	case !m.running:
	case m.paused:
		m.postponed = append(m.postponed, f)
	default:
		f()
	}
}

// after calls f after d, unless the member restarts before.
func (m *Member) after(d time.Duration, f func()) {
	epoch := m.epoch
	m.sim.after(d, func() {
		if m.epoch == epoch {
			m.do(f)
		}
	})
}

// reaches reports whether messages of m arrive at another member.
func (m *Member) reaches(o *Member) bool {
	return o != nil && m.running && o.running && !m.paused && !o.paused && (m == o || !m.isolated && !o.isolated)
}

// hasQuorum reports whether m reaches a majority, itself included.
func (m *Member) hasQuorum() bool {
	n := 0
	for _, o := range m.sim.cluster.members {
		if m.reaches(o) {
			n++
		}
	}
	return n > len(m.sim.cluster.members)/2
}

// header returns the header of a response.
func (m *Member) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: m.sim.cluster.id, MemberId: m.id, Revision: m.store.rev, RaftTerm: m.term}
}

// follow makes leader the one that m knows.
func (m *Member) follow(leader *Member, term uint64) {
	now := time.Now()
	m.contact = now
	if m.leader == leader && m.term == term {
		return
	}
	if m.leader == m && leader != m {
		m.lessor.demote()
	}
	m.leader, m.term = leader, term
	if leader == m {
		m.lessor.promote(m, electionTimeout)
	}
}

// loseLeader makes m know of no leader.
func (m *Member) loseLeader() {
	if m.leader == nil {
		return
	}
	m.lessor.demote()
	m.leader, m.noLeaderAt = nil, time.Now()
	m.sim.note("%s knows no leader", m.name)
}

// endLeaderless ends the streams that need a leader.
func (m *Member) endLeaderless() {
	for s := range m.needsLeader {
		s.end(rpctypes.ErrGRPCNoLeader)
	}
	clear(m.needsLeader)
}

// applyTo applies the log up to an index.
func (m *Member) applyTo(index int) {
	for m.applied < index {
		e := m.sim.cluster.log[m.applied]
		m.applied++
		before := m.store.rev
		out, err := e.apply(m)
		if m.store.rev > before {
			m.sim.observe(m.store)
			m.publish()
		}
		if e.proposer == m && e.epoch == m.epoch {
			e.answer(out, err)
		}
	}
	waiting := m.onApplied
	m.onApplied = nil
	for _, f := range waiting {
		if !f() {
			m.onApplied = append(m.onApplied, f)
		}
	}
}

// awaitApplied calls f when the log is applied up to an index.
func (m *Member) awaitApplied(index int, f func()) {
	if m.applied >= index {
		f()
		return
	}
	m.onApplied = append(m.onApplied, func() bool {
		if m.applied < index {
			return false
		}
		f()
		return true
	})
}

// Member returns a member by name, or nil.
func (s *Sim) Member(name string) *Member {
	for _, m := range s.cluster.members {
		if m.name == name {
			return m
		}
	}
	return nil
}

// Members returns all members.
func (s *Sim) Members() []*Member { return slices.Clone(s.cluster.members) }

// Leader returns the leader, or nil if there is none.
func (s *Sim) Leader() *Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cluster.leader
}

// Keys returns all keys with their values, as the longest applied log has them, for checkers.
func (s *Sim) Keys() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest().store.values()
}

// values returns the keys and values of the last revision.
func (s *store) values() map[string]string {
	out := map[string]string{}
	for key := range s.keys {
		if kv := s.at(key, s.rev); kv != nil {
			out[key] = string(kv.Value)
		}
	}
	return out
}

// Leases returns the IDs of all leases, for checkers.
func (s *Sim) Leases() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.newest().store.leases))
}

// newest returns the member that has applied most.
func (s *Sim) newest() *Member {
	return slices.MaxFunc(s.cluster.members, func(a, b *Member) int { return a.applied - b.applied })
}

// String returns the name, revision and term.
func (m *Member) String() string {
	return fmt.Sprintf("%s rev %d term %d", m.name, m.store.rev, m.term)
}

// Observe calls f with each event, in the order of the revisions, when the first member has applied
// it. f is called by the scheduler: it must not call methods of Sim.
func (s *Sim) Observe(f func(e *mvccpb.Event)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observers = append(s.observers, f)
}

// ObserveRestores calls f after each Restore with the revision, the keys and the values with which
// the cluster begins, before anything else is committed. f must not call methods of Sim.
func (s *Sim) ObserveRestores(f func(rev int64, keys map[string]string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restored = append(s.restored, f)
}

// observe passes the last revision to the observers, unless they have seen it.
func (s *Sim) observe(st *store) {
	if st.rev <= s.observed {
		return
	}
	s.observed = st.rev
	for _, e := range st.history[st.rev] {
		for _, f := range s.observers {
			f(e)
		}
	}
}
