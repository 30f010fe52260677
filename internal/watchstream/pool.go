package watchstream

import (
	"context"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// maxCatchUpStreams is the maximum number of gRPC streams for catching up. One of them is reserved
// for isolated watches.
const maxCatchUpStreams = 16

// Pool holds the streams of a client: one for all live watches, and others for catching up and for
// replays. An isolated watch is one whose response may have been the one that was too large for a
// shared stream: it catches up on a stream that no other watch uses.
type Pool struct {
	ctx         context.Context //nolint:containedctx // ends all streams
	wg          *sync.WaitGroup
	onDead      func(peer string) // called with the peer of a stream that does not answer
	dialer      *dialer           // nil if userWatcher is used
	userWatcher clientv3.Watcher  // the client's Watcher, if it is not client/v3's own

	mu                sync.Mutex
	live              *Stream       // for live watches; nil while there are none
	lastCheck         time.Time     // when CheckLive last requested responses
	catchUpStreams    []*Stream     // for catching up; with userWatcher, for live watches too
	replayCount       int           // number of replays that use a stream of their own
	idleReplayStreams []*Stream     // streams of ended replays, oldest first, for new ones to reuse
	isolatedSlot      chan struct{} // holds a token while an isolated watch has a stream
}

// NewPool returns a pool over cli, whose streams and goroutines end with ctx. The goroutines are
// added to wg. onDead is called with the peer of a stream that does not respond.
func NewPool(ctx context.Context, wg *sync.WaitGroup, cli *clientv3.Client, onDead func(peer string)) *Pool {
	p := &Pool{ctx: ctx, wg: wg, onDead: onDead, isolatedSlot: make(chan struct{}, 1)}
	if w := cli.Watcher; cli.ActiveConnection() == nil || w != nil && !IsClientV3Watcher(w) {
		p.userWatcher = w
		return p
	}
	p.dialer = newDialer(cli)
	return p
}

// AcquireLive adds a user to the stream of live watches. If there is none, it opens one, to a peer
// other than avoidPeer if possible. Over a Watcher of the user, which may have any number of
// streams, each watch gets a stream of its own. timeouts is the number of its consecutive attempts
// that ended with ErrNoResponse: each doubles the time in which the stream must respond. Release
// must follow.
func (p *Pool) AcquireLive(avoidPeer string, timeouts int) *Stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.userWatcher != nil {
		s := newStream(userWatcher{p.userWatcher, newProgressTracker()})
		p.catchUpStreams = append(p.catchUpStreams, s)
		p.monitor(s, newLivenessChecker(s, p.wg, silenceTimeout(timeouts), false))
		return p.addUser(s)
	}
	if p.live == nil {
		p.live = p.openStream(avoidPeer)
		p.monitor(p.live, newLivenessChecker(p.live, p.wg, responseTimeout, true))
	}
	return p.addUser(p.live)
}

// monitor checks a stream in the background and retires it if it is dead.
func (p *Pool) monitor(s *Stream, l *livenessChecker) {
	s.liveness = l
	p.wg.Go(func() {
		if err := l.run(p.ctx); err != nil {
			p.mu.Lock()
			p.retire(s, err)
			p.mu.Unlock()
			p.onDead(s.transport.peer())
		}
	})
}

// minCheckInterval is the minimum interval between two calls of CheckLive that have an effect.
const minCheckInterval = time.Second

// CheckLive requests a response of each stream of live watches, because a call of the client is
// overdue.
func (p *Pool) CheckLive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.lastCheck) < minCheckInterval {
		return
	}
	p.lastCheck = time.Now()
	if p.live != nil {
		p.live.RequestCheck()
	}
	for _, s := range p.catchUpStreams {
		if s.IsLive() {
			s.RequestCheck()
		}
	}
}

// AcquireCatchUp adds a user to a stream for catching up. It opens a new stream while there are
// few. avoidPeer is the peer that has just failed. An isolated watch waits for the reserved stream,
// which it shares with nobody. Release must follow.
func (p *Pool) AcquireCatchUp(ctx context.Context, isolate bool, avoidPeer string) (*Stream, error) {
	if isolate {
		select {
		case p.isolatedSlot <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		s := p.openStream(avoidPeer)
		s.Isolated = true
		return p.addUser(s), nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *Stream
	for _, s := range p.catchUpStreams {
		if best == nil || s.users <= best.users {
			best = s // the youngest of them, which has the newest token
		}
	}
	if len(p.catchUpStreams) < maxCatchUpStreams-1 {
		best = p.openStream(avoidPeer)
		p.catchUpStreams = append(p.catchUpStreams, best)
	}
	return p.addUser(best), nil
}

func (p *Pool) addUser(s *Stream) *Stream {
	s.users++
	s.maxUsers = max(s.maxUsers, s.users)
	return s
}

func (p *Pool) openStream(avoidPeer string) *Stream {
	return newStream(newGRPCStream(p.ctx, p.dialer, dialOptions{avoidPeer: avoidPeer}))
}

// AcquireReplay returns a stream for a replay. It receives responses up to maxResponseBytes (0 for
// the client's limit), each only after a call of allowReceive. Release must follow.
func (p *Pool) AcquireReplay(maxResponseBytes int, avoidPeer string) *Stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.userWatcher != nil {
		return p.addUser(newStream(userWatcher{p.userWatcher, newProgressTracker()}))
	}
	p.replayCount++
	for i, s := range p.idleReplayStreams {
		if s.maxResponseBytes == maxResponseBytes && (avoidPeer == "" || s.transport.peer() != avoidPeer) {
			p.idleReplayStreams = slices.Delete(p.idleReplayStreams, i, i+1)
			return p.addUser(s)
		}
	}
	s := newStream(newGRPCStream(p.ctx, p.dialer, dialOptions{avoidPeer: avoidPeer, maxResponseBytes: maxResponseBytes, paced: true}))
	s.ForReplay, s.maxResponseBytes = true, maxResponseBytes
	return p.addUser(s)
}

// Release removes a user and closes the stream with the last one. If broken is set, it also
// retires the stream: it broke, or it refuses a watch because its token is too old.
func (p *Pool) Release(s *Stream, broken bool) {
	if s.ForReplay {
		p.releaseReplay(s, broken)
		return
	}
	p.mu.Lock()
	s.users--
	last := s.users == 0
	if last || broken {
		p.retire(s, ErrMoved)
	}
	p.mu.Unlock()
	if !last {
		return
	}
	_ = s.transport.Close() // always nil
	if s.Isolated {
		<-p.isolatedSlot
	}
}

// retire removes a stream from the pool, so that no watch joins it, and makes its users move.
// p.mu must be held.
func (p *Pool) retire(s *Stream, cause error) {
	i := slices.Index(p.catchUpStreams, s)
	switch {
	case p.live == s:
		p.live = nil
	case i >= 0:
		p.catchUpStreams = slices.Delete(p.catchUpStreams, i, i+1)
	default:
		return // not in the pool, or retired already
	}
	s.RetireErr = cause
	close(s.Retired)
}

// releaseReplay releases the stream of a replay. It is kept for other replays while there are any,
// because a new stream may cost a login. At most maxCatchUpStreams are kept, the newest ones: a
// replay may last for hours, and streams with an unusual limit are of no use to others.
func (p *Pool) releaseReplay(s *Stream, broken bool) {
	p.mu.Lock()
	s.users--
	p.replayCount--
	var closing []*Stream
	if broken {
		closing = append(closing, s)
	} else {
		p.idleReplayStreams = append(p.idleReplayStreams, s)
	}
	if n := len(p.idleReplayStreams) - maxCatchUpStreams; n > 0 {
		closing = append(closing, p.idleReplayStreams[:n]...)
		p.idleReplayStreams = slices.Delete(p.idleReplayStreams, 0, n)
	}
	if p.replayCount == 0 {
		closing = append(closing, p.idleReplayStreams...)
		p.idleReplayStreams = nil
	}
	p.mu.Unlock()
	for _, s := range closing {
		_ = s.transport.Close() // always nil
	}
}

// WasShared reports whether another user may have broken the stream, because it had several at
// once, or whether the stream is the one for isolated watches.
func (p *Pool) WasShared(s *Stream) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.Isolated || s.maxUsers > 1
}

// Size returns the number of streams.
func (p *Pool) Size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.catchUpStreams)
	if p.userWatcher != nil {
		n = min(n, 1) // the number of the user's streams is unknown
	}
	if p.live != nil {
		n++
	}
	return n + len(p.isolatedSlot) + p.replayCount + len(p.idleReplayStreams)
}

// OverUserWatcher reports whether the pool uses a Watcher of the user, which decides about streams
// by itself.
func (p *Pool) OverUserWatcher() bool { return p.userWatcher != nil }
