package etcdtest

import (
	"bytes"
	"context"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// network is the network between the members of a cluster: one proxy for each direction of each
// pair. A member's requests name the member, so the listener in front of a member knows which proxy
// a connection belongs to.
type network struct {
	members []*member
	ctx     context.Context //nolint:containedctx // of the connections: ends when the network is closed
	end     context.CancelFunc
	wg      sync.WaitGroup

	listeners []net.Listener
	pairs     map[[2]string]*Proxy // by the names of the dialing and the accepting member; "" for a client that is none
}

// newNetwork puts a listener in front of each member. It is gone when the test ends.
func newNetwork(tb testing.TB, members []*member) *network {
	tb.Helper()
	n := &network{members: members, pairs: map[[2]string]*Proxy{}}
	n.ctx, n.end = context.WithCancel(background())
	for _, to := range members {
		front, err := takePort()
		must(tb, err)
		l, err := net.Listen("tcp", front.address())
		must(tb, err)
		to.front = front
		n.listeners = append(n.listeners, l)
		for _, from := range append(members, &member{}) {
			p := &Proxy{t: tb, target: &url.URL{}, changed: make(chan struct{}), links: map[*link]struct{}{}}
			p.ctx, p.end = context.WithCancel(n.ctx) //nolint:fatcontext // each is a child of n.ctx
			n.pairs[[2]string{from.name, to.name}] = p
		}
	}
	// Now that pairs is complete: a stranger may connect at any time.
	for i, l := range n.listeners {
		n.wg.Go(func() { n.serve(l, members[i]) })
	}
	tb.Cleanup(n.close)
	return n
}

// resolve tells the proxies where the members listen.
func (n *network) resolve() {
	for pair, p := range n.pairs {
		i := slices.IndexFunc(n.members, func(m *member) bool { return m.name == pair[1] })
		p.mu.Lock()
		p.target.Host = n.members[i].peer.address()
		p.mu.Unlock()
	}
}

func (n *network) serve(l net.Listener, to *member) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		n.wg.Go(func() {
			from, conn, err := n.identify(c)
			if err != nil {
				_ = c.Close()
				return
			}
			n.pairs[[2]string{from, to.name}].connect(conn)
		})
	}
}

// identify reads the header of the first request and returns the name of the member that made it,
// "" if it names none. The returned connection begins with the bytes that were read.
func (n *network) identify(c net.Conn) (name string, conn net.Conn, err error) {
	const maxHeader, headerTimeout = 4096, 5 * time.Second
	stop := context.AfterFunc(n.ctx, func() { _ = c.Close() })
	defer stop()
	if err := c.SetReadDeadline(time.Now().Add(headerTimeout)); err != nil {
		return "", nil, err
	}
	var read []byte
	for buf := make([]byte, maxHeader); len(read) < maxHeader && !bytes.Contains(read, []byte("\r\n\r\n")); {
		k, err := c.Read(buf)
		read = append(read, buf[:k]...)
		if err != nil {
			return "", nil, err
		}
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return "", nil, err
	}
	for line := range strings.Lines(string(read)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if !strings.EqualFold(key, "X-PeerURLs") {
			continue
		}
		for _, m := range n.members {
			if m.peerURL() == value {
				name = m.name
			}
		}
	}
	return name, &replayedConn{Conn: c, read: read}, nil
}

// replayedConn is a connection whose first bytes have been read already.
type replayedConn struct {
	net.Conn

	read []byte
}

func (c *replayedConn) Read(b []byte) (int, error) {
	if len(c.read) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.read)
	c.read = c.read[n:]
	return n, nil
}

func (n *network) close() {
	n.end()
	for _, l := range n.listeners {
		_ = l.Close()
	}
	for _, p := range n.pairs {
		p.Cut()
	}
	n.wg.Wait()
	for _, m := range n.members {
		m.front.release()
	}
}

// drop swallows what the member from sends to the member to, on connections that either has opened.
func (n *network) drop(from, to string) {
	n.pairs[[2]string{from, to}].change(func(r *rules) { r.swallow[up] = true })
	n.pairs[[2]string{to, from}].change(func(r *rules) { r.swallow[down] = true })
}

// Drop swallows the bytes that one member sends to another. The opposite direction stays open. The
// cluster must have been started with [WithNetwork].
func (c *Cluster) Drop(from, to *Server) {
	c.t.Helper()
	c.network.drop(from.member.name, to.member.name)
}

// Isolate swallows the bytes between a member and all others. The cluster must have been started
// with [WithNetwork].
func (c *Cluster) Isolate(s *Server) {
	c.t.Helper()
	for _, other := range c.Members {
		if other != s {
			c.Drop(s, other)
			c.Drop(other, s)
		}
	}
}

// Delay makes all bytes between members take d longer, each way. The cluster must have been started
// with [WithNetwork].
func (c *Cluster) Delay(d time.Duration) {
	c.t.Helper()
	for _, p := range c.network.pairs {
		p.Delay(d)
	}
}

// HealNetwork ends Drop, Isolate and Delay. Connections that have lost bytes are cut.
func (c *Cluster) HealNetwork() {
	c.t.Helper()
	for _, p := range c.network.pairs {
		p.change(func(r *rules) { *r = rules{} })
	}
}
