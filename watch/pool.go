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

// source is a connection to the server: a stream of this package, or a Watcher of the user.
type source interface {
	// watch requests a watch that lasts until ctx ends. It blocks while there is no connection.
	// Goroutines that outlive the call are added to wg and end with ctx.
	watch(ctx context.Context, wg *sync.WaitGroup, k hubKey, at start) <-chan answer
	// progress requests a progress report for all watches.
	progress(ctx context.Context) error
	// requests returns the progress requests.
	requests() *progressRequests
	// peer returns the address of the server, or "" if it is unknown.
	peer() string
	// more allows one more response to be received, if the source is paced.
	more()
	Close() error
}

// maxStreams is the maximum number of gRPC streams for catching up. One of them is reserved for
// suspects.
const maxStreams = 16

// pool holds the streams of a client: one for all live watches, and others for catching up and for
// replays.
type pool struct {
	ctx  context.Context //nolint:containedctx // ends all streams
	wg   *sync.WaitGroup
	dead func(peer string) // called with the peer of a stream that does not answer
	dial *dialer           // nil if user is used
	user clientv3.Watcher  // the client's Watcher, if it is not client/v3's own

	mu      sync.Mutex
	live    *seat         // for live watches; nil while there are none
	needed  time.Time     // when need last requested answers
	seats   []*seat       // for catching up; with user, for live watches too
	replays int           // number of replays that use a stream of their own
	idle    []*seat       // streams of ended replays, oldest first, for new ones to reuse
	suspect chan struct{} // holds a token while a suspect has a stream
}

// seat is one stream and its users, the tenants.
type seat struct {
	src source

	tenants int           // guarded by the pool
	most    int           // the maximum of tenants so far
	alone   bool          // used by a suspect, which shares it with nobody
	own     bool          // used by a replay, which shares it with nobody
	limit   int           // with own: maximum size of a response
	gone    chan struct{} // closed when the stream is retired: its tenants must move
	cause   error         // why it was retired; set before gone is closed
	born    time.Time
	heard   atomic.Int64 // when it last answered a watch, as the time since born

	key      atomic.Pointer[hubKey] // of the watch opened last; nil before
	liveness *liveness              // of a stream for live watches, otherwise nil
}

func newSeat(s source) *seat { return &seat{src: s, gone: make(chan struct{}), born: time.Now()} }

// isLive reports whether the stream is for live watches.
func (s *seat) isLive() bool { return s.liveness != nil }

// silent returns the time since the stream last answered a watch.
func (s *seat) silent() time.Duration { return time.Since(s.born) - time.Duration(s.heard.Load()) }

func newPool(ctx context.Context, wg *sync.WaitGroup, cli *clientv3.Client) *pool {
	p := &pool{ctx: ctx, wg: wg, dead: func(string) {}, suspect: make(chan struct{}, 1)}
	if w := cli.Watcher; cli.ActiveConnection() == nil || w != nil && !official(w) {
		p.user = w
		return p
	}
	p.dial = newDialer(cli)
	return p
}

// join adds a tenant to the stream of live watches. If there is none, it opens one, to a peer other
// than avoid if possible. Over a Watcher of the user, which may have any number of streams, each
// watch gets a seat of its own with the given patience. release must follow.
func (p *pool) join(avoid string, patience time.Duration) *seat {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.user != nil {
		s := newSeat(given{p.user, newProgressRequests()})
		p.seats = append(p.seats, s)
		p.watchOver(s, newLiveness(s, p.wg, patience, false))
		return p.take(s)
	}
	if p.live == nil {
		p.live = p.open(avoid)
		p.watchOver(p.live, newLiveness(p.live, p.wg, answerTimeout, true))
	}
	return p.take(p.live)
}

// watchOver checks a stream in the background and retires it if it is dead.
func (p *pool) watchOver(s *seat, l *liveness) {
	s.liveness = l
	p.wg.Go(func() {
		if err := l.run(p.ctx); err != nil {
			p.mu.Lock()
			p.retire(s, err)
			p.mu.Unlock()
			p.dead(s.src.peer())
		}
	})
}

// needInterval is the minimum interval between two calls of need that have an effect.
const needInterval = time.Second

// need requests an answer of each stream of live watches, because a call of the client is overdue.
func (p *pool) need() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.needed) < needInterval {
		return
	}
	p.needed = time.Now()
	if p.live != nil {
		p.live.need()
	}
	for _, s := range p.seats {
		if s.isLive() {
			s.need()
		}
	}
}

// acquire adds a tenant to a stream for catching up. It opens a new stream while there are few.
// avoid is the peer that has just failed. A suspect waits for the reserved stream, which it shares
// with nobody. release must follow.
func (p *pool) acquire(ctx context.Context, suspect bool, avoid string) (*seat, error) {
	if suspect {
		select {
		case p.suspect <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		s := p.open(avoid)
		s.alone = true
		return p.take(s), nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *seat
	for _, s := range p.seats {
		if best == nil || s.tenants <= best.tenants {
			best = s // the youngest of them, which has the newest token
		}
	}
	if len(p.seats) < maxStreams-1 {
		best = p.open(avoid)
		p.seats = append(p.seats, best)
	}
	return p.take(best), nil
}

func (p *pool) take(s *seat) *seat {
	s.tenants++
	s.most = max(s.most, s.tenants)
	return s
}

func (p *pool) open(avoid string) *seat {
	return newSeat(newPipe(p.ctx, p.dial, opening{avoid: avoid}))
}

// forReplay returns a stream for a replay. It receives responses up to limit (0 for the client's
// limit), each only after a call of more. release must follow.
func (p *pool) forReplay(limit int, avoid string) *seat {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.user != nil {
		return p.take(newSeat(given{p.user, newProgressRequests()}))
	}
	p.replays++
	for i, s := range p.idle {
		if s.limit == limit && (avoid == "" || s.src.peer() != avoid) {
			p.idle = slices.Delete(p.idle, i, i+1)
			return p.take(s)
		}
	}
	s := newSeat(newPipe(p.ctx, p.dial, opening{avoid: avoid, limit: limit, paced: true}))
	s.own, s.limit = true, limit
	return p.take(s)
}

// release removes a tenant and closes the stream with the last one. If broken is set, it also
// retires the stream: it broke, or it refuses a watch because its token is too old.
func (p *pool) release(s *seat, broken bool) {
	if s.own {
		p.releaseOwn(s, broken)
		return
	}
	p.mu.Lock()
	s.tenants--
	last := s.tenants == 0
	if last || broken {
		p.retire(s, errMoves)
	}
	p.mu.Unlock()
	if !last {
		return
	}
	_ = s.src.Close() // always nil
	if s.alone {
		<-p.suspect
	}
}

// retire removes a stream from the pool, so that no watch joins it, and makes its tenants move.
// p.mu must be held.
func (p *pool) retire(s *seat, cause error) {
	at := slices.Index(p.seats, s)
	switch {
	case p.live == s:
		p.live = nil
	case at >= 0:
		p.seats = slices.Delete(p.seats, at, at+1)
	default:
		return // not in the pool, or retired already
	}
	s.cause = cause
	close(s.gone)
}

// releaseOwn releases the stream of a replay. It is kept for other replays while there are any,
// because a new stream may cost a login. At most maxStreams are kept, the newest ones: a replay may
// last for hours, and streams with an unusual limit are of no use to others.
func (p *pool) releaseOwn(s *seat, broken bool) {
	p.mu.Lock()
	s.tenants--
	p.replays--
	var ends []*seat
	if broken {
		ends = append(ends, s)
	} else {
		p.idle = append(p.idle, s)
	}
	if n := len(p.idle) - maxStreams; n > 0 {
		ends = append(ends, p.idle[:n]...)
		p.idle = slices.Delete(p.idle, 0, n)
	}
	if p.replays == 0 {
		ends = append(ends, p.idle...)
		p.idle = nil
	}
	p.mu.Unlock()
	for _, s := range ends {
		_ = s.src.Close() // always nil
	}
}

// shared reports whether another tenant may be to blame if the stream broke, because it had several
// at once, or whether the stream is the one for suspects.
func (p *pool) shared(s *seat) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.alone || s.most > 1
}

// streams returns the number of streams.
func (p *pool) streams() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.seats)
	if p.user != nil {
		n = min(n, 1) // the number of the user's streams is unknown
	}
	if p.live != nil {
		n++
	}
	return n + len(p.suspect) + p.replays + len(p.idle)
}

// largerThanMax is part of gRPC's error for a message that exceeds the maximum size.
const largerThanMax = "larger than max"

// hidesRefusal reports whether replays that deliver nothing may have failed because a response
// exceeded the maximum size. A Watcher of the user does not report that.
func (p *pool) hidesRefusal(stalls int) bool { return p.user != nil && stalls >= maxStalls }

// oversized reports whether a stream broke because a message exceeded the client's maximum size.
func oversized(err error) bool {
	return err != nil && retry.Code(err) == codes.ResourceExhausted && strings.Contains(retry.Message(err), largerThanMax)
}
