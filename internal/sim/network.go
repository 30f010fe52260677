package sim

import (
	"context"
	"hash/fnv"
	"net"
	"sync"
	"syscall"
	"time"
)

// maxInFlight is the number of bytes that one direction of a connection holds before writes block,
// as the buffers of a TCP connection do.
const maxInFlight = 256 << 10

// LinkOptions describes the network between one client and one member, in each direction.
type LinkOptions struct {
	Latency time.Duration // one way
	Jitter  time.Duration // added to Latency: an exponential distribution with this mean
	Rate    int           // bytes per second; 0 is unlimited
}

// link is the network between one client and one member. The mutex of its network guards it.
type link struct {
	net    *network
	name   string
	member *Member

	opts    LinkOptions
	blocked [2]bool // by direction: bytes stay in the network until the link is healed
	refused bool    // new connections are refused
	conns   map[*connection]struct{}
}

// The directions of a link.
const (
	toMember = iota
	toClient
)

// network holds all links.
type network struct {
	seed  uint64
	mu    sync.Mutex
	links map[string]*link
	opts  LinkOptions // of new links
}

// link returns the link between a client and a member.
func (n *network) link(client string, m *Member) *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	name := client + "-" + m.name
	l := n.links[name]
	if l == nil {
		l = &link{net: n, name: name, member: m, opts: n.opts, conns: map[*connection]struct{}{}}
		n.links[name] = l
	}
	return l
}

// each calls f for each link of a client and a member, where "" means all, and wakes the readers
// and writers of those links.
func (n *network) each(client, member string, f func(l *link)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		of := l.name[:len(l.name)-len(l.member.name)-1]
		if (client == "" || client == of) && (member == "" || member == l.member.name) {
			f(l)
			l.notify()
		}
	}
}

// notify wakes all readers and writers, which check the state of the link again.
func (l *link) notify() {
	for c := range l.conns {
		for _, p := range c.pipes {
			p.notify()
		}
	}
}

// reset breaks all connections. Bytes that have not arrived are lost.
func (l *link) reset() {
	for c := range l.conns {
		c.fail(syscall.ECONNRESET)
	}
}

// unblock lets held bytes arrive after the latency of the link.
func (l *link) unblock() {
	l.blocked = [2]bool{}
	l.release()
}

// release makes bytes that were held until now arrive after the latency of the link.
func (l *link) release() {
	now := time.Now()
	for c := range l.conns {
		for dir, p := range c.pipes {
			for i := range p.queue {
				if at := now.Add(l.delay(dir, now)); p.queue[i].due.Before(at) {
					p.queue[i].due = at
				}
			}
		}
	}
}

// delay returns how long bytes that are sent at t travel. It depends on the seed, the link and t
// alone, so that the way in which gRPC cuts its output into writes does not change it.
func (l *link) delay(dir int, t time.Time) time.Duration {
	if l.opts.Jitter == 0 {
		return l.opts.Latency
	}
	u := 1 - float64(hash(l.net.seed, l.name, uint64(dir), uint64(t.UnixNano()))>>11)/(1<<53)
	return l.opts.Latency + time.Duration(exponential(u)*float64(l.opts.Jitter))
}

// dial connects to the member of the link.
func (l *link) dial(ctx context.Context) (net.Conn, error) {
	for {
		l.net.mu.Lock()
		now := time.Now()
		wait := l.delay(toMember, now) + l.delay(toClient, now)
		held := l.blocked != [2]bool{}
		refused := l.refused || l.member.listener == nil
		l.net.mu.Unlock()
		if held {
			wait = time.Second // as a lost SYN is repeated
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		switch {
		case held:
			continue
		case refused:
			return nil, &net.OpError{Op: "dial", Net: "sim", Err: syscall.ECONNREFUSED}
		}
		return l.connect()
	}
}

// connect passes a new connection to the listener of the member.
func (l *link) connect() (net.Conn, error) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	accept := l.member.listener
	if accept == nil || l.refused {
		return nil, &net.OpError{Op: "dial", Net: "sim", Err: syscall.ECONNREFUSED}
	}
	c := &connection{link: l}
	for dir := range c.pipes {
		c.pipes[dir] = &pipe{conn: c, dir: dir, readable: make(chan struct{}, 1), writable: make(chan struct{}, 1)}
	}
	l.conns[c] = struct{}{}
	select {
	case accept.conns <- &endpoint{conn: c, read: c.pipes[toMember], write: c.pipes[toClient]}:
	default:
		delete(l.conns, c)
		return nil, &net.OpError{Op: "dial", Net: "sim", Err: syscall.ECONNREFUSED}
	}
	return &endpoint{conn: c, read: c.pipes[toClient], write: c.pipes[toMember]}, nil
}

// hash mixes a seed with names and numbers.
func hash(seed uint64, name string, numbers ...uint64) uint64 {
	h := fnv.New64a()
	var b [8]byte
	put := func(x uint64) {
		for i := range b {
			b[i] = byte(x >> (8 * i))
		}
		_, _ = h.Write(b[:]) // never fails
	}
	put(seed)
	_, _ = h.Write([]byte(name))
	for _, x := range numbers {
		put(x)
	}
	x := h.Sum64() // FNV leaves the high bits of short inputs alike
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
