package sim

import (
	"fmt"
	"strings"
	"time"
)

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
