package watchstream

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// grpcStream is one gRPC stream with its watches. client/v3's own stream reopens by itself, buffers
// whatever a slow reader leaves, and may hang if a watch is refused while another one ends. A
// grpcStream is opened once, buffers little, and ends with its gRPC stream.
//
// etcd confirms or refuses the watches of a stream in the order of their requests. A refusal names
// no watch, so this order determines which one it is for.
type grpcStream struct {
	ctx           context.Context //nolint:containedctx // ends the stream
	cancel        context.CancelFunc
	opened        chan struct{} // closed once the stream is open or has failed to open
	receiveTokens chan struct{} // holds a token if a response may be received; nil if all may
	wg            sync.WaitGroup

	tracker *progressTracker

	// holds a token while a message is sent: one at a time, in the order of unconfirmed
	sendLock chan struct{}

	mu          sync.Mutex
	stream      pb.Watch_WatchClient // set once
	peerAddr    string               // the peer
	unconfirmed []*streamWatch       // not confirmed yet, in order
	watches     map[int64]*streamWatch
	err         error // the error with which the stream has ended
	closed      bool
}

// newGRPCStream starts to open a stream. It does not wait.
func newGRPCStream(ctx context.Context, d *dialer, o dialOptions) *grpcStream {
	g := &grpcStream{opened: make(chan struct{}), sendLock: make(chan struct{}, 1), tracker: newProgressTracker(), watches: make(map[int64]*streamWatch)}
	g.ctx, g.cancel = context.WithCancel(clientv3.WithRequireLeader(ctx))
	if o.paced {
		g.receiveTokens = make(chan struct{}, 1)
	}
	g.wg.Go(func() { g.run(d, o) })
	return g
}

// run opens the stream and reads it until it breaks.
func (g *grpcStream) run(d *dialer, o dialOptions) {
	s, peerAddr, err := d.dial(g.ctx, o)
	g.mu.Lock()
	g.stream, g.peerAddr, g.err = s, peerAddr, rpctypes.Error(err)
	g.mu.Unlock()
	close(g.opened)
	for err == nil {
		if g.receiveTokens != nil {
			select {
			case <-g.receiveTokens:
			case <-g.ctx.Done():
			}
		}
		var resp *pb.WatchResponse
		if resp, err = s.Recv(); err == nil {
			if !g.dispatch(resp) {
				g.allowReceive() // no watch will call it for this response
			}
		}
	}
	g.endAll(err)
}

// allowReceive allows one more response to be received.
func (g *grpcStream) allowReceive() {
	select {
	case g.receiveTokens <- struct{}{}:
	default: // allowed already, or not paced
	}
}

// endAll ends all watches with err.
func (g *grpcStream) endAll(err error) {
	g.cancel()
	g.mu.Lock()
	g.err = rpctypes.Error(err)
	all := g.unconfirmed
	for _, w := range g.watches {
		all = append(all, w)
	}
	g.unconfirmed = nil
	clear(g.watches)
	g.mu.Unlock()
	for _, w := range all {
		w.finish(Response{err: g.err})
	}
}

// watch requests a watch that lasts until ctx ends.
func (g *grpcStream) watch(ctx context.Context, _ *sync.WaitGroup, spec Spec, start Start) <-chan Response {
	w := &streamWatch{ctx: ctx, responses: make(chan Response, maxQueuedResponses)}
	select {
	case <-g.opened:
	case <-ctx.Done():
		return w.responses
	}
	select {
	case g.sendLock <- struct{}{}:
	case <-ctx.Done():
		return w.responses
	}
	g.mu.Lock()
	err := g.err
	if err == nil {
		g.unconfirmed = append(g.unconfirmed, w)
		context.AfterFunc(ctx, func() { g.cancelWatch(w) })
		g.send(spec.createRequest(start))
	} else {
		<-g.sendLock
	}
	g.mu.Unlock()
	if err != nil {
		w.finish(Response{err: err})
	}
	return w.responses
}

// cancelWatch cancels a watch whose context has ended. If etcd has not confirmed it yet,
// handleCreated cancels it.
func (g *grpcStream) cancelWatch(w *streamWatch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.watches[w.id] != w {
		return
	}
	delete(g.watches, w.id)
	g.sendCancel(w.id)
}

// sendCancel sends the cancellation of a watch. g.mu must be held.
func (g *grpcStream) sendCancel(id int64) {
	if g.closed {
		return
	}
	g.wg.Go(func() {
		select {
		case g.sendLock <- struct{}{}:
		case <-g.ctx.Done():
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
	})
}

// requestProgress requests a progress report for all watches of the stream.
func (g *grpcStream) requestProgress(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stream == nil {
		return nil
	}
	select {
	case g.sendLock <- struct{}{}:
		g.tracker.recordRequest()
		g.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
	default: // a message is being sent: the stream is stuck, or the next request succeeds
	}
	return nil
}

// send sends a message on a goroutine of its own, because Send blocks on a stream that is stuck.
// The caller must hold sendLock, which send releases, and g.mu. An error of the stream is
// reported by Recv.
func (g *grpcStream) send(m *pb.WatchRequest) {
	if g.closed {
		<-g.sendLock
		return
	}
	g.wg.Go(func() {
		_ = g.stream.Send(m)
		<-g.sendLock
	})
}

func (g *grpcStream) progressTracker() *progressTracker { return g.tracker }

// peer returns the address of the stream's peer, or "" if it is unknown.
func (g *grpcStream) peer() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.peerAddr
}

// Close ends the stream and waits for its goroutines.
func (g *grpcStream) Close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	g.wg.Wait()
	return nil
}

// dispatch passes a response to its watches. It reports whether one of them accepts it, since a
// watch may have ended.
func (g *grpcStream) dispatch(resp *pb.WatchResponse) bool {
	var to []*streamWatch
	var completeAt time.Time
	switch {
	case resp.GetCreated():
		return g.handleCreated(resp)
	case resp.GetCanceled():
		w := g.remove(resp.GetWatchId())
		if w != nil {
			w.finish(cancelResponse(resp))
		}
		return w != nil
	case resp.GetWatchId() == noWatch:
		to, completeAt = g.openWatches(), g.tracker.recordResponse()
	default:
		g.mu.Lock()
		if w := g.watches[resp.GetWatchId()]; w != nil {
			to = append(to, w)
		}
		g.mu.Unlock()
	}
	delivered := false
	for _, w := range to {
		delivered = w.deliver(resp, completeAt) || delivered
	}
	return delivered
}

// handleCreated handles the confirmation or refusal of the oldest request. It reports whether the
// watch still wants it.
func (g *grpcStream) handleCreated(resp *pb.WatchResponse) bool {
	g.mu.Lock()
	if len(g.unconfirmed) == 0 {
		g.mu.Unlock()
		return false // never happens: etcd answers each request once
	}
	w := g.unconfirmed[0]
	g.unconfirmed = g.unconfirmed[1:]
	refused := resp.GetCanceled() || resp.GetWatchId() == noWatch
	switch {
	case refused:
	case w.ctx.Err() != nil:
		g.sendCancel(resp.GetWatchId())
	default:
		w.id = resp.GetWatchId()
		g.watches[w.id] = w
	}
	g.mu.Unlock()
	if refused {
		w.finish(cancelResponse(resp))
		return true
	}
	return w.send(Response{created: true, Header: resp.GetHeader()})
}

func (g *grpcStream) remove(id int64) *streamWatch {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.watches[id]
	delete(g.watches, id)
	return w
}

func (g *grpcStream) openWatches() []*streamWatch {
	g.mu.Lock()
	defer g.mu.Unlock()
	watches := make([]*streamWatch, 0, len(g.watches))
	for _, w := range g.watches {
		watches = append(watches, w)
	}
	return watches
}
