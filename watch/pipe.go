package watch

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// noWatch is the watch ID of responses that do not belong to a single watch: refusals, and progress
// of all watches on the stream.
const noWatch = clientv3.InvalidWatchID

// pipe is one gRPC stream with its watches. client/v3's own stream reopens by itself, buffers
// whatever a slow reader leaves, and may hang if a watch is refused while another one ends. A pipe
// is opened once, buffers little, and ends with its stream.
//
// etcd confirms or refuses the watches of a stream in the order of their requests. A refusal names
// no watch, so this order determines which one it is for.
type pipe struct {
	ctx  context.Context //nolint:containedctx // ends the stream
	stop context.CancelFunc
	up   chan struct{} // closed once the stream is open or has failed to open
	pace chan struct{} // holds a token if a response may be received; nil if all may
	wg   sync.WaitGroup

	asks *progressRequests

	turn chan struct{} // holds a token while a message is sent: one at a time, in the order of asked

	mu     sync.Mutex
	wire   pb.Watch_WatchClient // set once
	at     string               // the peer
	asked  []*tap               // not confirmed yet, in order
	open   map[int64]*tap
	broke  error // why the stream has ended
	closed bool
}

// opening is how a stream is opened.
type opening struct {
	avoid string // a peer to avoid
	limit int    // maximum size of a response, 0 for the client's
	paced bool   // each response is received only after a call of more
}

// newPipe starts to open a stream. It does not wait.
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
				p.more() // no watch will call it for this response
			}
		}
	}
	p.fail(err)
}

// more allows one more response to be received.
func (p *pipe) more() {
	select {
	case p.pace <- struct{}{}:
	default: // allowed already, or not paced
	}
}

// fail ends all watches with err.
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

// watch requests a watch that lasts until ctx ends.
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

// leave cancels a watch whose context has ended. If etcd has not confirmed it yet, confirm cancels
// it.
func (p *pipe) leave(t *tap) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[t.id] != t {
		return
	}
	delete(p.open, t.id)
	p.cancel(t.id)
}

// cancel sends the cancellation of a watch. p.mu must be held.
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

// progress requests a progress report for all watches of the stream.
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
	default: // a message is being sent: the stream is stuck, or the next request succeeds
	}
	return nil
}

// send sends a message on a goroutine of its own, because Send blocks on a stream that is stuck.
// The caller must hold the token of turn, which send returns, and p.mu. An error of the stream is
// reported by Recv.
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

// peer returns the address of the stream's peer, or "" if it is unknown.
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

// route passes a response to its watches. It reports whether one of them takes it, since a watch
// may have left.
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

// confirm handles the confirmation or refusal of the oldest request. It reports whether the watch
// still wants it.
func (p *pipe) confirm(resp *pb.WatchResponse) bool {
	p.mu.Lock()
	if len(p.asked) == 0 {
		p.mu.Unlock()
		return false // never happens: etcd answers each request once
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
