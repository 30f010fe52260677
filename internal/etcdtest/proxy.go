package etcdtest

import (
	"context"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// Proxy is the network in front of a server, with its faults: a TCP proxy on a loopback port. Up is
// towards the server, down towards the client. All methods may be called at once, also from its
// callbacks.
//
// A proxy whose server is down accepts a connection and then closes it, where the server would have
// refused it.
type Proxy struct {
	t      testing.TB
	target *url.URL
	port   port
	ctx    context.Context //nolint:containedctx // of the connections: ends when the proxy is closed
	end    context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	rules    rules
	changed  chan struct{} // closed and replaced when the rules change
	writing  [2]int        // writes under way in each direction
	idle     [2]chan struct{}
	links    map[*link]struct{}
	listener net.Listener // nil while connections are refused
	closed   bool
}

// direction is a direction of the bytes, as the client sees it.
type direction int

const (
	up direction = iota
	down
)

// rules is what happens to bytes now.
type rules struct {
	swallow, hold [2]bool
	delay         time.Duration
	watch         [2]func([]byte)
}

// Proxy puts a proxy in front of the server. It is gone when the test ends.
func (s *Server) Proxy(tb testing.TB) *Proxy {
	tb.Helper()
	return NewProxy(tb, s.Endpoint())
}

// NewProxy puts a proxy in front of an endpoint (http, https or unix URL). It is gone when the test
// ends.
func NewProxy(tb testing.TB, endpoint string) *Proxy {
	tb.Helper()
	target, err := url.Parse(endpoint)
	must(tb, err)
	at, err := takePort()
	must(tb, err)
	p := &Proxy{
		t: tb, target: target, port: at,
		changed: make(chan struct{}), links: map[*link]struct{}{},
	}
	p.ctx, p.end = context.WithCancel(background())
	p.Accept()
	tb.Cleanup(p.close)
	return p
}

// Endpoint is the URL to give to clients. It stays the same for as long as the proxy exists.
func (p *Proxy) Endpoint() string {
	scheme := p.target.Scheme
	if scheme == "unix" {
		scheme = "http"
	}
	return scheme + "://" + p.port.address()
}

// Endpoints is Endpoint as clientv3.Config wants it.
func (p *Proxy) Endpoints() []string { return []string{p.Endpoint()} }

// Refuse makes new connections fail as those to a port that nobody listens on. Open ones stay.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
}

// Accept ends Refuse.
func (p *Proxy) Accept() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil || p.closed {
		return
	}
	l, err := net.Listen("tcp", p.port.address())
	must(p.t, err)
	p.listener = l
	p.wg.Go(func() { p.serve(l) })
}

// Cut closes all connections at once, with a reset; bytes under way are lost. New ones are welcome:
// Refuse first to cut a client off.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.end()
	}
}

// Blackhole swallows all bytes that go up, down, or both ways, on open and new connections, and
// says nothing: nobody is told that a peer closed, either. When it returns, nothing passes any
// more. Blackhole(false, false) ends it; a connection that has lost bytes is cut then, for what
// follows would make no sense.
func (p *Proxy) Blackhole(upward, downward bool) {
	p.change(func(r *rules) { r.swallow = [2]bool{upward, downward} })
}

// Hold keeps back the bytes that go up, down, or both ways, until Hold(false, false) or Heal
// delivers them late and in order, as a network does that comes back.
func (p *Proxy) Hold(upward, downward bool) {
	p.change(func(r *rules) { r.hold = [2]bool{upward, downward} })
}

// Delay makes all bytes that arrive from now on take d longer, each way. Their rate is not limited.
func (p *Proxy) Delay(d time.Duration) {
	p.change(func(r *rules) { r.delay = d })
}

// Heal ends Refuse, Blackhole, Hold and Delay. Connections that have lost bytes are cut. Callbacks
// stay.
func (p *Proxy) Heal() {
	p.t.Helper()
	p.change(func(r *rules) { *r = rules{watch: r.watch} })
	p.Accept()
}

// OnUp calls f with the bytes that go towards the server, before they are sent, held or swallowed:
// what f asks of the proxy applies to them already. Calls for one connection come in order, those
// for several at once. f must not keep or change the bytes. nil ends it.
func (p *Proxy) OnUp(f func(b []byte)) {
	p.change(func(r *rules) { r.watch[up] = f })
}

// OnDown is OnUp for the bytes that go towards the client.
func (p *Proxy) OnDown(f func(b []byte)) {
	p.change(func(r *rules) { r.watch[down] = f })
}

// Connections is the number of connections that are open now.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// change edits the rules, cuts what cannot go on under the new ones, and waits for
// writes under way that the new rules would not have let through.
func (p *Proxy) change(edit func(*rules)) {
	p.mu.Lock()
	edit(&p.rules)
	close(p.changed)
	p.changed = make(chan struct{})
	for l := range p.links {
		if l.lost[up] && !p.rules.swallow[up] || l.lost[down] && !p.rules.swallow[down] {
			l.end()
		}
	}
	var waits []chan struct{}
	for _, dir := range []direction{up, down} {
		if p.writing[dir] == 0 || !p.rules.swallow[dir] && !p.rules.hold[dir] {
			continue
		}
		if p.idle[dir] == nil {
			p.idle[dir] = make(chan struct{})
		}
		waits = append(waits, p.idle[dir])
	}
	p.mu.Unlock()

	const writeTimeout = time.Second // a peer that does not read blocks a write for as long as it likes
	timer := time.NewTimer(writeTimeout)
	defer timer.Stop()
	for _, idle := range waits {
		select {
		case <-idle:
		case <-timer.C:
			return
		}
	}
}

// close ends everything and returns when nothing runs any more.
func (p *Proxy) close() {
	p.Refuse()
	p.mu.Lock()
	p.closed = true
	p.end()
	p.mu.Unlock()
	p.Cut()
	p.wg.Wait()
	p.port.release()
}

// admit waits until bytes may pass in a direction, or, with no bytes, the end of the stream, and
// counts the write that follows. It reports false when they are swallowed or the link is cut.
func (p *Proxy) admit(l *link, dir direction, size int) bool {
	for {
		p.mu.Lock()
		r, changed := &p.rules, p.changed
		switch {
		case r.hold[dir], r.swallow[dir] && size == 0:
			p.mu.Unlock()
		case r.swallow[dir]:
			l.lost[dir] = true
			p.mu.Unlock()
			return false
		default:
			p.writing[dir]++
			p.mu.Unlock()
			return true
		}
		select {
		case <-changed:
		case <-l.done:
			return false
		}
	}
}

// wrote ends a write that admit has counted.
func (p *Proxy) wrote(dir direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writing[dir]--
	if p.writing[dir] == 0 && p.idle[dir] != nil {
		close(p.idle[dir])
		p.idle[dir] = nil
	}
}

// now returns the rules in force.
func (p *Proxy) now() rules {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rules
}
