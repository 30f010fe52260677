package watch

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// transport is a connection to the server: a stream of this package, or a Watcher of the user.
type transport interface {
	// watch requests a watch that lasts until ctx ends. It blocks while there is no connection.
	// Goroutines that outlive the call are added to wg and end with ctx.
	watch(ctx context.Context, wg *sync.WaitGroup, k watchKey, at startOptions) <-chan response
	// requestProgress requests a progress report for all watches.
	requestProgress(ctx context.Context) error
	// progressTracker returns the progress requests.
	progressTracker() *progressTracker
	// peer returns the address of the server, or "" if it is unknown.
	peer() string
	// allowReceive allows one more response to be received, if the transport is paced.
	allowReceive()
	Close() error
}

// maxCatchUpStreams is the maximum number of gRPC streams for catching up. One of them is reserved
// for isolated watches.
const maxCatchUpStreams = 16

// pool holds the streams of a client: one for all live watches, and others for catching up and for
// replays.
type pool struct {
	ctx         context.Context //nolint:containedctx // ends all streams
	wg          *sync.WaitGroup
	onDead      func(peer string) // called with the peer of a stream that does not answer
	dialer      *dialer           // nil if userWatcher is used
	userWatcher clientv3.Watcher  // the client's Watcher, if it is not client/v3's own

	mu                sync.Mutex
	live              *pooledStream   // for live watches; nil while there are none
	lastCheck         time.Time       // when checkLive last requested responses
	catchUpStreams    []*pooledStream // for catching up; with userWatcher, for live watches too
	replayCount       int             // number of replays that use a stream of their own
	idleReplayStreams []*pooledStream // streams of ended replays, oldest first, for new ones to reuse
	isolatedSlot      chan struct{}   // holds a token while an isolated watch has a stream
}

// pooledStream is a stream and its users.
type pooledStream struct {
	transport transport

	users            int           // guarded by the pool
	maxUsers         int           // the maximum of users so far
	isolated         bool          // used by an isolated watch, which shares it with nobody
	forReplay        bool          // used by a replay, which shares it with nobody
	maxResponseBytes int           // with forReplay: maximum size of a response
	retired          chan struct{} // closed when the stream is retired: its users must move
	retireErr        error         // the error that retired it; set before retired is closed
	openedAt         time.Time
	lastResponse     atomic.Int64 // when it last answered a watch, as the time since openedAt

	lastKey  atomic.Pointer[watchKey] // of the watch opened last; nil before
	liveness *livenessChecker         // of a stream for live watches, otherwise nil
}

func newPooledStream(s transport) *pooledStream {
	return &pooledStream{transport: s, retired: make(chan struct{}), openedAt: time.Now()}
}

// isLive reports whether the stream is for live watches.
func (s *pooledStream) isLive() bool { return s.liveness != nil }

// silence returns the time since the stream last answered a watch.
func (s *pooledStream) silence() time.Duration {
	return time.Since(s.openedAt) - time.Duration(s.lastResponse.Load())
}

func newPool(ctx context.Context, wg *sync.WaitGroup, cli *clientv3.Client) *pool {
	p := &pool{ctx: ctx, wg: wg, onDead: func(string) {}, isolatedSlot: make(chan struct{}, 1)}
	if w := cli.Watcher; cli.ActiveConnection() == nil || w != nil && !isClientV3Watcher(w) {
		p.userWatcher = w
		return p
	}
	p.dialer = newDialer(cli)
	return p
}

// acquireLive adds a user to the stream of live watches. If there is none, it opens one, to a peer
// other than avoidPeer if possible. Over a Watcher of the user, which may have any number of
// streams, each watch gets a stream of its own with the given timeout. release must follow.
func (p *pool) acquireLive(avoidPeer string, timeout time.Duration) *pooledStream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.userWatcher != nil {
		s := newPooledStream(userWatcher{p.userWatcher, newProgressTracker()})
		p.catchUpStreams = append(p.catchUpStreams, s)
		p.monitor(s, newLivenessChecker(s, p.wg, timeout, false))
		return p.addUser(s)
	}
	if p.live == nil {
		p.live = p.newStream(avoidPeer)
		p.monitor(p.live, newLivenessChecker(p.live, p.wg, responseTimeout, true))
	}
	return p.addUser(p.live)
}

// monitor checks a stream in the background and retires it if it is dead.
func (p *pool) monitor(s *pooledStream, l *livenessChecker) {
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

// minCheckInterval is the minimum interval between two calls of checkLive that have an effect.
const minCheckInterval = time.Second

// checkLive requests a response of each stream of live watches, because a call of the client is
// overdue.
func (p *pool) checkLive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.lastCheck) < minCheckInterval {
		return
	}
	p.lastCheck = time.Now()
	if p.live != nil {
		p.live.requestCheck()
	}
	for _, s := range p.catchUpStreams {
		if s.isLive() {
			s.requestCheck()
		}
	}
}

// acquireCatchUp adds a user to a stream for catching up. It opens a new stream while there are
// few. avoidPeer is the peer that has just failed. An isolated watch waits for the reserved stream,
// which it shares with nobody. release must follow.
func (p *pool) acquireCatchUp(ctx context.Context, isolate bool, avoidPeer string) (*pooledStream, error) {
	if isolate {
		select {
		case p.isolatedSlot <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		s := p.newStream(avoidPeer)
		s.isolated = true
		return p.addUser(s), nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *pooledStream
	for _, s := range p.catchUpStreams {
		if best == nil || s.users <= best.users {
			best = s // the youngest of them, which has the newest token
		}
	}
	if len(p.catchUpStreams) < maxCatchUpStreams-1 {
		best = p.newStream(avoidPeer)
		p.catchUpStreams = append(p.catchUpStreams, best)
	}
	return p.addUser(best), nil
}

func (p *pool) addUser(s *pooledStream) *pooledStream {
	s.users++
	s.maxUsers = max(s.maxUsers, s.users)
	return s
}

func (p *pool) newStream(avoidPeer string) *pooledStream {
	return newPooledStream(newGRPCStream(p.ctx, p.dialer, dialOptions{avoidPeer: avoidPeer}))
}

// acquireReplay returns a stream for a replay. It receives responses up to maxResponseBytes (0 for
// the client's limit), each only after a call of allowReceive. release must follow.
func (p *pool) acquireReplay(maxResponseBytes int, avoidPeer string) *pooledStream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.userWatcher != nil {
		return p.addUser(newPooledStream(userWatcher{p.userWatcher, newProgressTracker()}))
	}
	p.replayCount++
	for i, s := range p.idleReplayStreams {
		if s.maxResponseBytes == maxResponseBytes && (avoidPeer == "" || s.transport.peer() != avoidPeer) {
			p.idleReplayStreams = slices.Delete(p.idleReplayStreams, i, i+1)
			return p.addUser(s)
		}
	}
	s := newPooledStream(newGRPCStream(p.ctx, p.dialer, dialOptions{avoidPeer: avoidPeer, maxResponseBytes: maxResponseBytes, paced: true}))
	s.forReplay, s.maxResponseBytes = true, maxResponseBytes
	return p.addUser(s)
}

// release removes a user and closes the stream with the last one. If broken is set, it also
// retires the stream: it broke, or it refuses a watch because its token is too old.
func (p *pool) release(s *pooledStream, broken bool) {
	if s.forReplay {
		p.releaseReplay(s, broken)
		return
	}
	p.mu.Lock()
	s.users--
	last := s.users == 0
	if last || broken {
		p.retire(s, errMoved)
	}
	p.mu.Unlock()
	if !last {
		return
	}
	_ = s.transport.Close() // always nil
	if s.isolated {
		<-p.isolatedSlot
	}
}

// retire removes a stream from the pool, so that no watch joins it, and makes its users move.
// p.mu must be held.
func (p *pool) retire(s *pooledStream, cause error) {
	i := slices.Index(p.catchUpStreams, s)
	switch {
	case p.live == s:
		p.live = nil
	case i >= 0:
		p.catchUpStreams = slices.Delete(p.catchUpStreams, i, i+1)
	default:
		return // not in the pool, or retired already
	}
	s.retireErr = cause
	close(s.retired)
}

// releaseReplay releases the stream of a replay. It is kept for other replays while there are any,
// because a new stream may cost a login. At most maxCatchUpStreams are kept, the newest ones: a
// replay may last for hours, and streams with an unusual limit are of no use to others.
func (p *pool) releaseReplay(s *pooledStream, broken bool) {
	p.mu.Lock()
	s.users--
	p.replayCount--
	var closing []*pooledStream
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

// wasShared reports whether another user may have broken the stream, because it had several at
// once, or whether the stream is the one for isolated watches.
func (p *pool) wasShared(s *pooledStream) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.isolated || s.maxUsers > 1
}

// size returns the number of streams.
func (p *pool) size() int {
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

// largerThanMax is part of gRPC's error for a message that exceeds the maximum size.
const largerThanMax = "larger than max"

// mayHideRefusal reports whether replays that deliver nothing may have failed because a response
// exceeded the maximum size. A Watcher of the user does not report that.
func (p *pool) mayHideRefusal(stalls int) bool { return p.userWatcher != nil && stalls >= maxStalls }

// isOversized reports whether a stream broke because a message exceeded the client's maximum size.
func isOversized(err error) bool {
	return err != nil && retry.Code(err) == codes.ResourceExhausted && strings.Contains(retry.Message(err), largerThanMax)
}
