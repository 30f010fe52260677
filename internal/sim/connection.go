package sim

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// connection is one connection: a pipe in each direction.
type connection struct {
	link  *link
	pipes [2]*pipe
}

// fail ends both directions with err.
func (c *connection) fail(err error) {
	for _, p := range c.pipes {
		if p.err == nil {
			p.err, p.queue, p.size = err, nil, 0
		}
		p.notify()
	}
	delete(c.link.conns, c)
}

// chunk is a piece of a stream. One without data is the end of the stream.
type chunk struct {
	sent, due time.Time
	data      []byte
}

// pipe is one direction of a connection. The mutex of the network guards it.
type pipe struct {
	conn     *connection
	dir      int
	queue    []chunk
	size     int
	busy     time.Time // when the last byte leaves a link with a limited rate
	err      error
	deadline time.Time     // of reads
	readable chan struct{} // holds a value if the reader must look again
	writable chan struct{} // the same for the writer
}

func (p *pipe) notify() {
	for _, c := range []chan struct{}{p.readable, p.writable} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// held reports whether the next chunk cannot arrive until something changes.
func (p *pipe) held() bool {
	l := p.conn.link
	if l.blocked[p.dir] || len(p.queue) == 0 {
		return true
	}
	paused := l.member.pausedAt
	return !paused.IsZero() && (p.dir == toMember || p.queue[0].sent.After(paused))
}

// receive reads what has arrived. If there is nothing, it returns how long to wait, or a negative
// duration if nothing is on the way.
func (p *pipe) receive(b []byte) (n int, wait time.Duration, err error) {
	now := time.Now()
	wait = -1
	if !p.deadline.IsZero() {
		if wait = p.deadline.Sub(now); wait <= 0 {
			return 0, 0, os.ErrDeadlineExceeded
		}
	}
	if p.err != nil {
		return 0, 0, p.err
	}
	if p.held() {
		return 0, wait, nil
	}
	first := &p.queue[0]
	if d := first.due.Sub(now); d > 0 {
		if wait < 0 || d < wait {
			wait = d
		}
		return 0, wait, nil
	}
	if first.data == nil {
		return 0, 0, io.EOF
	}
	n = copy(b, first.data)
	if first.data = first.data[n:]; len(first.data) == 0 {
		p.queue = p.queue[1:]
	}
	p.size -= n
	p.notify()
	return n, 0, nil
}

func (p *pipe) read(b []byte) (int, error) {
	mu := &p.conn.link.net.mu
	for {
		mu.Lock()
		n, wait, err := p.receive(b)
		mu.Unlock()
		switch {
		case n > 0 || err != nil:
			return n, err
		case wait < 0:
			<-p.readable
		default:
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-p.readable:
			}
			timer.Stop()
		}
	}
}

// send queues data, or the end of the stream if data is nil.
func (p *pipe) send(data []byte) {
	l, now := p.conn.link, time.Now()
	start := now
	if l.opts.Rate > 0 {
		if p.busy.After(start) {
			start = p.busy
		}
		p.busy = start.Add(time.Duration(len(data)) * time.Second / time.Duration(l.opts.Rate))
		start = p.busy
	}
	due := start.Add(l.delay(p.dir, now))
	if n := len(p.queue); n > 0 && p.queue[n-1].due.After(due) {
		due = p.queue[n-1].due
	}
	p.queue = append(p.queue, chunk{sent: now, due: due, data: data})
	p.size += len(data)
	p.notify()
}

func (p *pipe) write(b []byte) (int, error) {
	mu := &p.conn.link.net.mu
	mu.Lock()
	defer mu.Unlock()
	for p.err == nil && p.size > maxInFlight {
		mu.Unlock()
		<-p.writable
		mu.Lock()
	}
	if p.err != nil {
		return 0, p.err
	}
	if len(b) > 0 {
		p.send(append([]byte(nil), b...))
	}
	return len(b), nil
}

// endpoint is one end of a connection.
type endpoint struct {
	conn        *connection
	read, write *pipe
}

var _ net.Conn = (*endpoint)(nil)

func (e *endpoint) Read(b []byte) (int, error)  { return e.read.read(b) }
func (e *endpoint) Write(b []byte) (int, error) { return e.write.write(b) }

// Close ends the connection at once on this side, and on the other side when the bytes that are on
// the way have arrived.
func (e *endpoint) Close() error {
	mu := &e.conn.link.net.mu
	mu.Lock()
	defer mu.Unlock()
	if e.read.err != nil {
		return nil
	}
	e.read.err = net.ErrClosed
	e.read.notify()
	if e.write.err == nil {
		e.write.send(nil)
	} else {
		delete(e.conn.link.conns, e.conn)
	}
	return nil
}

// SetReadDeadline sets the deadline of reads.
func (e *endpoint) SetReadDeadline(t time.Time) error {
	mu := &e.conn.link.net.mu
	mu.Lock()
	defer mu.Unlock()
	e.read.deadline = t
	e.read.notify()
	return nil
}

// SetDeadline sets the deadline of reads. Writes have none: gRPC sets one only during handshakes.
func (e *endpoint) SetDeadline(t time.Time) error { return e.SetReadDeadline(t) }

// SetWriteDeadline does nothing.
func (e *endpoint) SetWriteDeadline(time.Time) error { return nil }

// LocalAddr returns the address of the link.
func (e *endpoint) LocalAddr() net.Addr { return address(e.conn.link.name) }

// RemoteAddr returns the address of the member, or, for the member, the name of the link.
func (e *endpoint) RemoteAddr() net.Addr {
	if e.write.dir == toMember {
		return address(e.conn.link.member.address())
	}
	return address(e.conn.link.name)
}

// address is the address of a link.
type address string

// Network returns "sim".
func (address) Network() string { return "sim" }

// String returns the address.
func (a address) String() string { return string(a) }

// listener accepts the connections of a member.
type listener struct {
	conns chan *endpoint
	done  chan struct{}
	once  sync.Once
}

func newListener() *listener {
	return &listener{conns: make(chan *endpoint, 64), done: make(chan struct{})}
}

// Accept waits for the next connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, errors.New("listener closed")
	}
}

// Close ends Accept.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr returns no address.
func (l *listener) Addr() net.Addr { return address("listener") }
