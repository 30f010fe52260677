package sim

import (
	"slices"
	"time"
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
