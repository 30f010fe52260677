package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults that a schedule draws from. Those that last end after a random time.
const (
	MoveLeader   Kind = "move leader"   // proposals that are not committed may be dropped
	CrashMember  Kind = "crash member"  // and start it again
	PauseMember  Kind = "pause member"  // as SIGSTOP does; connections stay
	CutMember    Kind = "cut member"    // off its peers
	SlowDisk     Kind = "slow disk"     // commits take long
	LagMember    Kind = "lag member"    // applies late
	BlockLink    Kind = "block link"    // bytes are held, in one or both directions
	ResetLink    Kind = "reset link"    // connections break
	RefuseLink   Kind = "refuse link"   // connections break and new ones are refused
	SlowLink     Kind = "slow link"     // of high latency and a low rate
	FreezeClient Kind = "freeze client" // all links of one client are blocked
	LoseRequests Kind = "lose requests" // requests or answers are lost, or requests are carried out late
	Compact      Kind = "compact"       // all that is older than the current revision
)

// LateAnswers is a kind that AllKinds does not include: the answers to one client are late, and when
// they arrive, its requests are held. A client that counts the TTL of a lease from an answer relies
// on the lease for too long then.
const LateAnswers Kind = "late answers"

// AllKinds returns all kinds.
func AllKinds() []Kind {
	return []Kind{
		MoveLeader, CrashMember, PauseMember, CutMember, SlowDisk, LagMember, BlockLink, ResetLink, RefuseLink, SlowLink,
		FreezeClient, LoseRequests, Compact,
	}
}

// Plan is a schedule of faults.
type Plan struct {
	Kinds    []Kind        // default: all
	Interval time.Duration // mean time between two faults; default 2 s
	Duration time.Duration // mean duration of a fault that lasts; default 3 s
}

// RequestFaults are probabilities for each unary request. One that is lost, or whose answer is
// lost, breaks its connection in half of the cases. In the others it is answered with etcd's error
// for a timeout after 7 s, as when a proposal is dropped.
type RequestFaults struct {
	LoseRequest float64 // it is not carried out
	LoseAnswer  float64 // it is carried out, and its answer is lost
	Late        float64 // it is carried out up to 3 s later
	Hang        bool    // lost requests are not answered at all, which needs a proxy before etcd
}

// faults is the state of the faults.
type faults struct {
	plan     *Plan // nil: none
	requests RequestFaults
	undo     map[int]func() // of the faults that last
	seq      int
}

// StartFaults begins a schedule of faults that the seed determines. It replaces an earlier one.
func (s *Sim) StartFaults(p Plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p.Kinds) == 0 {
		p.Kinds = AllKinds()
	}
	if p.Interval == 0 {
		p.Interval = 2 * time.Second
	}
	if p.Duration == 0 {
		p.Duration = 3 * time.Second
	}
	s.faults.plan = &p
	if s.faults.undo == nil {
		s.faults.undo = map[int]func(){}
	}
	s.note("faults begin")
	s.scheduleFault(&p)
}

// StopFaults ends the schedule and all faults, so that the cluster is healthy again within seconds.
// Clients that were killed stay so.
func (s *Sim) StopFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.plan = nil
	for i := range s.faults.seq + 1 {
		if undo := s.faults.undo[i]; undo != nil {
			delete(s.faults.undo, i)
			undo()
		}
	}
	s.faults.requests = RequestFaults{}
	for _, m := range s.cluster.members {
		m.heal()
	}
	s.network.each("", "", func(l *link) {
		if !s.killed[l.client()] {
			l.refused = false
			l.opts = s.opts.Link
			l.unblock()
		}
	})
	s.note("faults end")
}

// heal ends the faults of a member.
func (m *Member) heal() {
	m.applyLag, m.diskDelay, m.isolated = 0, 0, false
	if !m.running {
		m.boot()
	}
	if m.paused {
		m.resume()
	}
}

// client returns the name of the client of a link.
func (l *link) client() string { return l.name[:len(l.name)-len(l.member.name)-1] }

func (s *Sim) scheduleFault(p *Plan) {
	s.after(s.draw(p.Interval), func() {
		if s.faults.plan != p {
			return
		}
		s.fault(p.Kinds[s.rng.IntN(len(p.Kinds))], s.draw(p.Duration))
		s.scheduleFault(p)
	})
}

// lasting ends a fault after d, or when faults stop.
func (s *Sim) lasting(d time.Duration, undo func()) {
	s.faults.seq++
	n := s.faults.seq
	s.faults.undo[n] = undo
	s.after(d, func() {
		if s.faults.undo[n] != nil {
			delete(s.faults.undo, n)
			undo()
		}
	})
}

// fault makes a fault of a kind happen to something that the seed selects.
func (s *Sim) fault(kind Kind, d time.Duration) {
	members := s.cluster.members
	m := members[s.rng.IntN(len(members))]
	if s.cluster.leader != nil && s.rng.IntN(2) == 0 {
		m = s.cluster.leader
	}
	clients := s.clients()
	client := ""
	if len(clients) > 0 {
		client = clients[s.rng.IntN(len(clients))]
	}
	n := s.rng.IntN(3)
	s.counts["fault "+string(kind)]++
	s.note("fault: %s %s %s %v (%d)", kind, m.name, client, d, n)
	switch kind {
	case MoveLeader:
		s.moveLeader()
	case CrashMember:
		m.crash()
		s.lasting(d, func() {
			if !m.running {
				m.boot()
			}
		})
	case PauseMember:
		m.pause()
		s.lasting(d, m.resume)
	case CutMember:
		m.isolated = true
		s.lasting(d, func() { m.isolated = false })
	case SlowDisk:
		m.diskDelay = d / 10
		s.lasting(d, func() { m.diskDelay = 0 })
	case LagMember:
		m.applyLag = d / 10
		s.lasting(d, func() { m.applyLag = 0 })
	case Compact:
		m.propose("Compact", func(m *Member) (any, error) { return nil, m.store.compact(m.store.rev) }, func(any, error) {})
	case LoseRequests:
		s.faults.requests = RequestFaults{LoseRequest: .1, LoseAnswer: .1, Late: .1}
		s.lasting(d, func() { s.faults.requests = RequestFaults{} })
	case ResetLink:
		s.network.each(client, m.name, (*link).reset)
	case RefuseLink:
		s.network.each(client, m.name, func(l *link) {
			l.refused = true
			l.reset()
		})
		s.undoLinks(d, client, m.name, func(l *link) { l.refused = false })
	case SlowLink:
		s.network.each(client, m.name, func(l *link) {
			l.opts.Latency, l.opts.Jitter, l.opts.Rate = 50*s.opts.Link.Latency, 200*s.opts.Link.Jitter, 20_000
		})
		s.undoLinks(d, client, m.name, func(l *link) { l.opts = s.opts.Link })
	case BlockLink:
		s.network.each(client, m.name, func(l *link) { l.blocked = [2]bool{n != 1, n != 2} })
		s.undoLinks(d, client, m.name, (*link).unblock)
	case FreezeClient:
		s.network.each(client, "", func(l *link) { l.blocked = [2]bool{true, true} })
		s.undoLinks(d, client, "", (*link).unblock)
	case LateAnswers:
		s.network.each(client, "", func(l *link) { l.blocked = [2]bool{toClient: true} })
		lateness := minLateness + time.Duration(s.rng.Int64N(int64(maxLateness-minLateness)))
		s.lasting(lateness, func() { s.holdRequests(client) })
	}
}

// The times of LateAnswers. Requests are held until leases of a TTL of 12 s have expired.
const (
	minLateness  = time.Second
	maxLateness  = 2500 * time.Millisecond
	requestsHeld = 13 * time.Second
)

// holdRequests lets the answers to a client arrive, and holds its requests while there are faults.
func (s *Sim) holdRequests(client string) {
	s.network.each(client, "", (*link).unblock)
	if s.faults.plan == nil || s.killed[client] {
		return
	}
	s.network.each(client, "", func(l *link) { l.blocked = [2]bool{toMember: true} })
	s.undoLinks(requestsHeld, client, "", (*link).unblock)
}

// undoLinks calls f for links after d. Links of clients that were killed meanwhile stay dead.
func (s *Sim) undoLinks(d time.Duration, client, member string, f func(l *link)) {
	s.lasting(d, func() {
		s.network.each(client, member, func(l *link) {
			if !s.killed[l.client()] {
				f(l)
			}
		})
	})
}

// clients returns the names of the clients that have connected, in order.
func (s *Sim) clients() (out []string) {
	s.network.mu.Lock()
	defer s.network.mu.Unlock()
	for _, l := range s.network.links {
		if name := l.client(); !s.killed[name] {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// change calls f with the mutex held and notes what it does.
func (s *Sim) change(f func(), what ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("%s", strings.Join(what, " "))
	f()
}

// MoveLeader makes another member the leader, if a majority can elect one.
func (s *Sim) MoveLeader() { s.change(s.moveLeader, "move leader") }

func (s *Sim) moveLeader() {
	if others := s.cluster.candidates(s.cluster.leader); len(others) > 0 {
		s.cluster.elect(others[s.rng.IntN(len(others))])
	}
}

// Crash stops a member at once. It keeps what it has applied.
func (s *Sim) Crash(member string) { s.change(s.Member(member).crash, "crash", member) }

func (m *Member) crash() {
	m.shutDown()
	if c := &m.sim.cluster; c.leader == m {
		c.leader = nil
	}
}

// Restart starts a member that has crashed.
func (s *Sim) Restart(member string) {
	s.change(func() {
		if m := s.Member(member); !m.running {
			m.boot()
		}
	}, "restart", member)
}

// Pause stops a member as SIGSTOP does: its connections stay open, and nothing is answered.
func (s *Sim) Pause(member string) { s.change(s.Member(member).pause, "pause", member) }

func (m *Member) pause() {
	if !m.running || m.paused {
		return
	}
	m.paused = true
	m.sim.network.mu.Lock()
	m.pausedAt = time.Now()
	m.sim.network.mu.Unlock()
}

// Resume continues a member that was paused.
func (s *Sim) Resume(member string) { s.change(s.Member(member).resume, "resume", member) }

func (m *Member) resume() {
	if !m.paused {
		return
	}
	m.paused = false
	m.sim.network.mu.Lock()
	m.pausedAt = time.Time{}
	m.sim.network.mu.Unlock()
	m.sim.network.each("", m.name, (*link).release)
	postponed := m.postponed
	m.postponed = nil
	for _, f := range postponed {
		m.do(f)
	}
}

// Isolate cuts a member off its peers. Clients still reach it.
func (s *Sim) Isolate(member string) {
	s.change(func() { s.Member(member).isolated = true }, "isolate", member)
}

// Rejoin ends Isolate.
func (s *Sim) Rejoin(member string) {
	s.change(func() { s.Member(member).isolated = false }, "rejoin", member)
}

// SetDisk delays commits while a member leads.
func (s *Sim) SetDisk(member string, d time.Duration) {
	s.change(func() { s.Member(member).diskDelay = d }, "disk", member, d.String())
}

// SetLag delays what a follower applies.
func (s *Sim) SetLag(member string, d time.Duration) {
	s.change(func() { s.Member(member).applyLag = d }, "lag", member, d.String())
}

// SetRequestFaults sets how often requests are lost or late.
func (s *Sim) SetRequestFaults(f RequestFaults) {
	s.change(func() { s.faults.requests = f }, fmt.Sprintf("request faults %v", f))
}

// SetNoSpace raises or clears the alarm for lack of space, with which etcd rejects puts.
func (s *Sim) SetNoSpace(on bool) {
	s.change(func() {
		for _, m := range s.cluster.members {
			m.store.noSpace = on
		}
	}, fmt.Sprintf("no space %v", on))
}

// Block holds all bytes between a client and a member, in the directions that are given. In Block,
// Unblock, Reset, Refuse and SetLink, "" stands for all clients or all members.
func (s *Sim) Block(client, member string, requests, answers bool) {
	s.change(func() {
		s.network.each(client, member, func(l *link) { l.blocked = [2]bool{requests, answers} })
	}, "block", client, member)
}

// Unblock ends Block and Refuse. What was held arrives.
func (s *Sim) Unblock(client, member string) {
	s.change(func() {
		s.network.each(client, member, func(l *link) {
			l.refused = false
			l.unblock()
		})
	}, "unblock", client, member)
}

// Reset breaks connections.
func (s *Sim) Reset(client, member string) {
	s.change(func() { s.network.each(client, member, (*link).reset) }, "reset", client, member)
}

// Refuse breaks connections and refuses new ones.
func (s *Sim) Refuse(client, member string) {
	s.change(func() {
		s.network.each(client, member, func(l *link) {
			l.refused = true
			l.reset()
		})
	}, "refuse", client, member)
}

// SetLink changes the latency and rate of links.
func (s *Sim) SetLink(client, member string, o LinkOptions) {
	s.change(func() { s.network.each(client, member, func(l *link) { l.opts = o }) }, "link", client, member)
}

// Kill cuts a client off for good, as the end of its process does: connections break, and new ones
// are refused. The client must still be closed.
func (s *Sim) Kill(client string) {
	s.change(func() {
		s.killed[client] = true
		for _, m := range s.cluster.members {
			s.network.link(client, m)
		}
		s.network.each(client, "", func(l *link) {
			l.refused = true
			l.reset()
		})
	}, "kill", client)
}

// Snapshot is the content of a cluster at one time.
type Snapshot struct {
	store *store
	term  uint64
}

// Snapshot returns the content of the member that has applied most.
func (s *Sim) Snapshot() *Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.newest()
	return &Snapshot{store: m.store.clone(), term: m.term}
}

// Restore replaces the cluster by a new one that begins with a snapshot, or empty if from is nil.
// The new cluster has another ID unless sameID is set. Its terms start again.
func (s *Sim) Restore(from *Snapshot, sameID bool) {
	s.change(func() {
		c := &s.cluster
		for _, m := range c.members {
			m.crash()
			m.store, m.applied, m.applying, m.term = newStore(), 0, 0, 0
			if from != nil {
				m.store = from.store.clone()
			}
		}
		c.log, c.pending, c.leader, c.term = nil, nil, nil, 2
		s.observed = c.members[0].store.rev
		for _, f := range s.restored {
			f(s.observed, c.members[0].store.values())
		}
		if !sameID {
			c.id = hash(c.id, "cluster")
		}
		for _, m := range c.members {
			m.boot()
		}
		c.elect(c.members[s.rng.IntN(len(c.members))])
	}, "restore")
}

// fate is what becomes of one request.
type fate struct {
	kind  string // "": nothing
	delay time.Duration
	reset bool // the connection breaks as well
	hang  bool // there is no answer
}

func (f fate) String() string {
	if f.kind == "" {
		return ""
	}
	return fmt.Sprintf(" [%s %v reset=%v]", f.kind, f.delay, f.reset)
}

// The fates of a request.
const (
	requestLost = "request lost"
	answerLost  = "answer lost"
	late        = "late"
)

// fate draws what becomes of a request.
func (s *Sim) fate(method string) fate {
	p := s.faults.requests
	if p.LoseRequest+p.LoseAnswer+p.Late == 0 || method == "Status" || method == "LeaseKeepAlive" {
		return fate{}
	}
	u, f := s.rng.Float64(), fate{reset: s.rng.IntN(2) == 0, hang: p.Hang}
	switch {
	case u < p.LoseRequest:
		f.kind = requestLost
	case u < p.LoseRequest+p.LoseAnswer:
		f.kind = answerLost
	case u < p.LoseRequest+p.LoseAnswer+p.Late:
		f.kind, f.delay = late, time.Duration(s.rng.Int64N(int64(3*time.Second)))
	default:
		return fate{}
	}
	s.counts["fault "+f.kind]++
	return f
}

// request carries out a request, or loses it.
func (f fate) request(m *Member, from string, do func(), fail func(error)) {
	switch f.kind {
	case requestLost:
		f.lose(m, from, fail)
	case late:
		m.after(f.delay, do)
	default:
		m.do(do)
	}
}

// answer delivers an answer, or loses it.
func (f fate) answer(m *Member, from string, deliver func(), fail func(error)) {
	if f.kind == answerLost {
		f.lose(m, from, fail)
		return
	}
	deliver()
}

// lose breaks the connection, fails the request after a while, or does nothing.
func (f fate) lose(m *Member, from string, fail func(error)) {
	switch {
	case f.hang:
	case f.reset:
		m.sim.network.each("", m.name, func(l *link) {
			if l.name == from {
				l.reset()
			}
		})
	default:
		m.after(requestTimeout, func() { fail(rpctypes.ErrGRPCTimeout) })
	}
}
