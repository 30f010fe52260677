package sim

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	heartbeat       = 100 * time.Millisecond
	electionTimeout = time.Second
	requestTimeout  = 7 * time.Second // etcd's: 5 s and two election timeouts
	readRetry       = 500 * time.Millisecond
	leaderlessLimit = 3 * electionTimeout // after it, streams that need a leader end
	emptyEntry      = "empty"             // text of the first entry of a term
)

// cluster is the consensus of the members: one log, of which each member has applied a prefix.
// Entries that the leader has appended and not yet committed may be lost with it.
type cluster struct {
	sim     *Sim
	id      uint64
	members []*Member
	log     []*entry
	pending []*entry // appended by the leader, not committed
	leader  *Member  // nil if there is none; one that is cut off may not know of its successor
	term    uint64
	electAt time.Time // of the next election; zero while the leader is in contact with a majority
}

// entry is an entry of the log.
type entry struct {
	text     string
	apply    func(m *Member) (any, error)
	proposer *Member
	epoch    int // of the proposer
	done     func(any, error)
	answered bool
}

func (e *entry) answer(out any, err error) {
	if !e.answered {
		e.answered = true
		e.done(out, err)
	}
}

func (c *cluster) init(s *Sim) {
	c.sim, c.id, c.term = s, hash(s.seed, "cluster"), 2
	for i := range s.opts.Members {
		name := fmt.Sprintf("m%d", i+1)
		m := &Member{sim: s, name: name, id: hash(s.seed, name), store: newStore()}
		c.members = append(c.members, m)
	}
	for _, m := range c.members {
		m.boot()
	}
	c.elect(c.members[s.rng.IntN(len(c.members))])
	c.tick()
}

// tick runs at each heartbeat: it lets members notice what the network and the crashes did to them.
func (c *cluster) tick() {
	s, now := c.sim, time.Now()
	s.after(heartbeat, c.tick)
	healthy := c.leader != nil && c.leader.hasQuorum()
	for _, m := range c.members {
		switch {
		case !m.running || m.paused:
		case healthy && m.reaches(c.leader):
			m.follow(c.leader, c.term)
			c.replicate(m)
		case m.leader == m && m.hasQuorum() && m == c.leader:
			m.contact = now
		case now.Sub(m.contact) > electionTimeout:
			m.loseLeader()
		}
		if m.running && !m.paused && m.leader == nil && now.Sub(m.noLeaderAt) > leaderlessLimit {
			m.endLeaderless()
		}
	}
	switch {
	case healthy:
		c.electAt = time.Time{}
	case c.electAt.IsZero():
		c.electAt = now.Add(electionTimeout + time.Duration(s.rng.Int64N(int64(electionTimeout))))
	case now.After(c.electAt):
		if candidates := c.candidates(nil); len(candidates) > 0 {
			c.elect(candidates[s.rng.IntN(len(candidates))])
		}
	}
	if c.leader != nil {
		c.leader.lessor.tick(c.leader)
	}
}

// candidates returns the members that a majority can elect, other than one.
func (c *cluster) candidates(other *Member) (out []*Member) {
	for _, m := range c.members {
		if m != other && m.hasQuorum() {
			out = append(out, m)
		}
	}
	return out
}

// elect makes m the leader. Of the entries that the last leader had not committed, m has a prefix.
func (c *cluster) elect(m *Member) {
	s := c.sim
	c.term++
	c.leader, c.electAt = m, time.Time{}
	kept := s.rng.IntN(len(c.pending) + 1)
	s.note("%s is elected for term %d; %d proposals are dropped", m.name, c.term, len(c.pending)-kept)
	c.pending = c.pending[:kept]
	for _, o := range c.members {
		if m.reaches(o) {
			o.follow(m, c.term)
		}
	}
	c.append(&entry{
		text: emptyEntry, apply: func(*Member) (any, error) { return nil, nil }, proposer: m, epoch: m.epoch, done: func(any, error) {},
	})
}

// propose passes an entry to the leader. The answer is that of the application at m, or an error
// after the timeout, after which the entry may still be committed.
func (m *Member) propose(text string, apply func(m *Member) (any, error), done func(any, error)) {
	e := &entry{text: text, apply: apply, proposer: m, epoch: m.epoch, done: done}
	deadline := time.Now().Add(requestTimeout)
	m.after(requestTimeout, func() { e.answer(nil, rpctypes.ErrGRPCTimeout) })
	m.forward(e, deadline)
}

// forward sends an entry to the leader. Without a leader it waits for one.
func (m *Member) forward(e *entry, deadline time.Time) {
	s := m.sim
	leader := m.leader
	switch {
	case time.Now().After(deadline):
		return
	case leader == nil:
		m.after(heartbeat/2, func() { m.forward(e, deadline) })
		return
	case leader == m:
		m.lead(e)
		return
	case !m.reaches(leader):
		return // the message is lost
	}
	leader.after(s.opts.PeerLatency, func() { leader.lead(e) })
}

// lead appends an entry if m is the leader. Otherwise it is lost.
func (m *Member) lead(e *entry) {
	if c := &m.sim.cluster; c.leader == m && m.leader == m {
		c.append(e)
	}
}

// append adds an entry to the log of the leader and commits it when a majority has it.
func (c *cluster) append(e *entry) {
	c.pending = append(c.pending, e)
	d := 2*c.sim.opts.PeerLatency + c.sim.draw(c.sim.opts.DiskLatency) + c.leader.diskDelay
	c.sim.after(d, func() { c.commit(e) })
}

// commit commits the pending entries up to e. While the leader has no majority, they wait.
func (c *cluster) commit(e *entry) {
	at := slices.Index(c.pending, e)
	switch {
	case at < 0:
		return // dropped, or committed with a later entry
	case c.leader == nil || !c.leader.hasQuorum():
		c.sim.after(heartbeat/5, func() { c.commit(e) })
		return
	}
	c.log = append(c.log, c.pending[:at+1]...)
	c.pending = append([]*entry(nil), c.pending[at+1:]...)
	c.leader.applying = len(c.log)
	c.leader.applyTo(len(c.log))
	for _, m := range c.members {
		if m.reaches(c.leader) {
			c.replicate(m)
		}
	}
}

// replicate lets m apply what is committed, a little later.
func (c *cluster) replicate(m *Member) {
	index := len(c.log)
	if m.applying >= index {
		return
	}
	m.applying = index
	m.after(c.sim.opts.PeerLatency+c.sim.draw(c.sim.opts.ApplyLag)+m.applyLag, func() { m.applyTo(index) })
}

// readIndex calls done when m has applied all that was committed when it was called.
func (m *Member) readIndex(done func(error)) {
	r := &indexRead{m: m, term: m.term, done: done}
	m.after(requestTimeout, func() { r.answer(rpctypes.ErrGRPCTimeout) })
	r.try()
}

// indexRead is a request for the commit index of the leader.
type indexRead struct {
	m        *Member
	term     uint64
	done     func(error)
	answered bool
}

func (r *indexRead) answer(err error) {
	if !r.answered {
		r.answered = true
		r.done(err)
	}
}

// try asks the leader, and asks again until the time is up or m learns of another leader.
func (r *indexRead) try() {
	m, c, rtt := r.m, &r.m.sim.cluster, 2*r.m.sim.opts.PeerLatency
	if r.answered {
		return
	}
	if m.term != r.term && m.leader != nil {
		r.answer(rpctypes.ErrGRPCLeaderChanged)
		return
	}
	again := func() { m.after(readRetry, r.try) }
	leader := m.leader
	if leader == nil || !m.reaches(leader) {
		again()
		return
	}
	forth := m.sim.opts.PeerLatency
	if leader == m {
		forth = 0
	}
	m.after(forth, func() {
		if c.leader != leader || !m.reaches(leader) {
			again()
			return
		}
		index, term := len(c.log), c.term
		if slices.ContainsFunc(c.pending, func(e *entry) bool { return e.text == emptyEntry }) {
			m.after(heartbeat/20, r.try) // the leader has not yet committed an entry of its term
			return
		}
		m.after(rtt+forth, func() {
			if c.leader != leader || c.term != term || !leader.hasQuorum() || !m.reaches(leader) {
				again()
				return
			}
			m.awaitApplied(index, func() { r.answer(nil) })
		})
	})
}
