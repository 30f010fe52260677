package etcdtest

import (
	"bytes"
	"context"
	"net"
	"sync"
	"time"
)

// link is one connection through a [Proxy]: the client's half and the server's.
type link struct {
	ends [2]net.Conn // by the direction that is written to them: ends[up] is the server's
	lost [2]bool     // bytes were swallowed; guarded by the proxy's mutex
	done chan struct{}
	once sync.Once
}

// chunk is some bytes under way, or, without any, the end of the stream.
type chunk struct {
	bytes []byte
	due   time.Time
}

// end cuts both halves with a reset.
func (l *link) end() {
	l.once.Do(func() {
		close(l.done)
		for _, c := range l.ends {
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			_ = c.Close()
		}
	})
}

// serve accepts connections until the listener is closed.
func (p *Proxy) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.connect(c) })
	}
}

// connect joins a client's connection to the server and moves bytes until it ends.
func (p *Proxy) connect(client net.Conn) {
	p.mu.Lock()
	target := *p.target
	p.mu.Unlock()
	network, address := "tcp", target.Host
	if target.Scheme == "unix" {
		network, address = "unix", target.Path
	}
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	var dialer net.Dialer
	server, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &link{ends: [2]net.Conn{up: server, down: client}, done: make(chan struct{})}
	p.mu.Lock()
	p.links[l] = struct{}{}
	if p.closed {
		l.end()
	}
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, dir := range []direction{up, down} {
		queue := make(chan chunk, 64) // with 32 KiB each, what a network holds
		wg.Go(func() { p.read(l, l.ends[1-dir], queue) })
		wg.Go(func() { p.write(l, dir, queue) })
	}
	wg.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// read queues what arrives on one half, with the time when it is due at the other.
func (p *Proxy) read(l *link, from net.Conn, queue chan<- chunk) {
	defer close(queue)
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		due := time.Now().Add(p.now().delay)
		if n > 0 && !l.enqueue(queue, chunk{bytes: bytes.Clone(buf[:n]), due: due}) {
			return
		}
		if err != nil {
			l.enqueue(queue, chunk{due: due})
			return
		}
	}
}

func (l *link) enqueue(queue chan<- chunk, x chunk) bool {
	select {
	case queue <- x:
		return true
	case <-l.done:
		return false
	}
}

// write delivers what is queued when it is due, as the rules have it then. The end of one
// direction ends the link.
func (p *Proxy) write(l *link, dir direction, queue <-chan chunk) {
	defer l.end()
	for x := range queue {
		if !l.sleep(time.Until(x.due)) {
			return
		}
		if watch := p.now().watch[dir]; watch != nil && len(x.bytes) > 0 {
			watch(x.bytes)
		}
		if !p.admit(l, dir, len(x.bytes)) {
			continue
		}
		var err error
		if len(x.bytes) > 0 {
			_, err = l.ends[dir].Write(x.bytes)
		}
		p.wrote(dir)
		if err != nil || len(x.bytes) == 0 {
			return
		}
	}
}

// sleep reports false when the link was cut meanwhile.
func (l *link) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.done:
		return false
	}
}
