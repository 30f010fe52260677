package watch

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// noWatch is the ID in answers that are about no single watch: refusals, and progress of all watches on the stream.
const noWatch = clientv3.InvalidWatchID

// pipe is one gRPC stream with the watches on it. Client/v3's own would open the stream again by itself, keep whatever a
// slow reader leaves, and may hang when a watch is refused while another one ends; this one is opened once, keeps
// little, and ends with the stream.
//
// etcd confirms or refuses the watches of a stream in the order in which they were asked for. A refusal names no watch,
// so that order is how it finds its own.
type pipe struct {
	ctx  context.Context //nolint:containedctx // the life of the stream
	stop context.CancelFunc
	up   chan struct{} // closed when the stream is open, or will never be
	pace chan struct{} // holds a token for each response that may be received; nil if all may
	wg   sync.WaitGroup

	asks *progressRequests

	turn chan struct{} // holds a token while a message is sent: they go one by one, and in the order of asked

	mu     sync.Mutex
	wire   pb.Watch_WatchClient // never changes once it is there
	at     string               // the peer
	asked  []*tap               // not confirmed yet, in order
	open   map[int64]*tap
	broke  error // why the stream has ended
	closed bool
}

// opening says how a stream is opened.
type opening struct {
	avoid string // a peer to avoid
	limit int    // of the size of a response, 0 for the client's
	paced bool   // a response is received only when more was called
}

// newPipe starts to open a stream, and returns at once.
func newPipe(ctx context.Context, d *dialer, o opening) *pipe {
	p := &pipe{up: make(chan struct{}), turn: make(chan struct{}, 1), asks: newProgressRequests(), open: make(map[int64]*tap)}
	p.ctx, p.stop = context.WithCancel(clientv3.WithRequireLeader(ctx))
	if o.paced {
		p.pace = make(chan struct{}, 1)
	}
	p.wg.Go(func() { p.run(d, o) })
	return p
}

// run opens the stream and reads it until it breaks.
func (p *pipe) run(d *dialer, o opening) {
	s, at, err := d.dial(p.ctx, o)
	p.mu.Lock()
	p.wire, p.at, p.broke = s, at, rpctypes.Error(err)
	p.mu.Unlock()
	close(p.up)
	for err == nil {
		if p.pace != nil {
			select {
			case <-p.pace:
			case <-p.ctx.Done():
			}
		}
		var resp *pb.WatchResponse
		if resp, err = s.Recv(); err == nil {
			if !p.route(resp) {
				p.more() // for nobody any more
			}
		}
	}
	p.fail(err)
}

// more allows one more response to be received.
func (p *pipe) more() {
	select {
	case p.pace <- struct{}{}:
	default: // it is allowed already, or always
	}
}

// fail ends all watches.
func (p *pipe) fail(err error) {
	p.stop()
	p.mu.Lock()
	p.broke = rpctypes.Error(err)
	all := p.asked
	for _, t := range p.open {
		all = append(all, t)
	}
	p.asked = nil
	clear(p.open)
	p.mu.Unlock()
	for _, t := range all {
		t.end(answer{err: p.broke})
	}
}

// watch asks for a watch. It lives as long as ctx.
func (p *pipe) watch(ctx context.Context, _ *sync.WaitGroup, k hubKey, at start) <-chan answer {
	t := &tap{ctx: ctx, ch: make(chan answer, queued)}
	select {
	case <-p.up:
	case <-ctx.Done():
		return t.ch
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return t.ch
	}
	p.mu.Lock()
	broke := p.broke
	if broke == nil {
		p.asked = append(p.asked, t)
		context.AfterFunc(ctx, func() { p.leave(t) })
		p.send(k.request(at))
	} else {
		<-p.turn
	}
	p.mu.Unlock()
	if broke != nil {
		t.end(answer{err: broke})
	}
	return t.ch
}

// leave ends a watch whose context has ended. One that etcd has yet to confirm is ended when it does.
func (p *pipe) leave(t *tap) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[t.id] != t {
		return
	}
	delete(p.open, t.id)
	p.cancel(t.id)
}

// cancel has etcd end a watch. The caller holds p.mu.
func (p *pipe) cancel(id int64) {
	if p.closed {
		return
	}
	p.wg.Go(func() {
		select {
		case p.turn <- struct{}{}:
		case <-p.ctx.Done():
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
	})
}

// progress asks for the progress of all watches of the stream.
func (p *pipe) progress(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wire == nil {
		return nil
	}
	select {
	case p.turn <- struct{}{}:
		p.asks.add()
		p.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
	default: // somebody is sending: the stream is stuck, or the next request comes through
	}
	return nil
}

// send sends a message and passes the turn on, which the caller has taken. Nobody waits for that: a stream that takes
// nothing more would keep them from noticing it. What is wrong with the stream is what Recv says. The caller holds p.mu.
func (p *pipe) send(m *pb.WatchRequest) {
	if p.closed {
		<-p.turn
		return
	}
	p.wg.Go(func() {
		_ = p.wire.Send(m)
		<-p.turn
	})
}

func (p *pipe) requests() *progressRequests { return p.asks }

// peer is where the stream ends, "" where that is not known.
func (p *pipe) peer() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

// Close ends the stream and waits for its goroutines.
func (p *pipe) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.wg.Wait()
	return nil
}

// route hands one answer to the watch that it is for, and reports whether somebody takes it: the watch may have left.
func (p *pipe) route(resp *pb.WatchResponse) bool {
	var to []*tap
	var asOf time.Time
	switch {
	case resp.GetCreated():
		return p.confirm(resp)
	case resp.GetCanceled():
		t := p.take(resp.GetWatchId())
		if t != nil {
			t.end(ending(resp))
		}
		return t != nil
	case resp.GetWatchId() == noWatch:
		to, asOf = p.all(), p.asks.answer()
	default:
		p.mu.Lock()
		if t := p.open[resp.GetWatchId()]; t != nil {
			to = append(to, t)
		}
		p.mu.Unlock()
	}
	taken := false
	for _, t := range to {
		taken = t.put(resp, asOf) || taken
	}
	return taken
}

// confirm is etcd's answer to the watch that was asked for first. It reports whether that is still wanted.
func (p *pipe) confirm(resp *pb.WatchResponse) bool {
	p.mu.Lock()
	if len(p.asked) == 0 {
		p.mu.Unlock()
		return false // never seen: etcd answers once each
	}
	t := p.asked[0]
	p.asked = p.asked[1:]
	refused := resp.GetCanceled() || resp.GetWatchId() == noWatch
	switch {
	case refused:
	case t.ctx.Err() != nil:
		p.cancel(resp.GetWatchId())
	default:
		t.id = resp.GetWatchId()
		p.open[t.id] = t
	}
	p.mu.Unlock()
	if refused {
		t.end(ending(resp))
		return true
	}
	return t.send(answer{created: true, header: resp.GetHeader()})
}

func (p *pipe) take(id int64) *tap {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.open[id]
	delete(p.open, id)
	return t
}

func (p *pipe) all() []*tap {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*tap, 0, len(p.open))
	for _, t := range p.open {
		out = append(out, t)
	}
	return out
}
