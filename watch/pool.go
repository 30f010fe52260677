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

// source is a way to the server: a stream of the engine's own, or a Watcher of the user's.
type source interface {
	// watch asks for a watch, which lives as long as ctx. It blocks while there is no connection.
	// wg has the goroutines that it leaves behind, until ctx ends.
	watch(ctx context.Context, wg *sync.WaitGroup, k hubKey, at start) <-chan answer
	// progress requests a progress report on all watches.
	progress(ctx context.Context) error
	// requests are the progress requests.
	requests() *progressRequests
	// peer is the server, "" where it is not known.
	peer() string
	// more allows one more response to be received, where each is asked for.
	more()
	Close() error
}

// maxStreams is how many gRPC streams a pool may hold for watches that read history; one of them is kept for suspects.
const maxStreams = 16

// pool holds the streams of a client: one for all watches that are live, and others for those that read history.
type pool struct {
	ctx  context.Context //nolint:containedctx // the life of all streams
	wg   *sync.WaitGroup
	dead func(peer string) // is told of streams that do not answer
	dial *dialer           // nil with user
	user clientv3.Watcher  // the client's Watcher where it is the user's own

	mu      sync.Mutex
	live    *seat         // of live watches; nil while there are none
	needed  time.Time     // when the streams were asked because a call was overdue
	seats   []*seat       // of those that read history
	replays int           // how many replays have a stream of their own
	idle    []*seat       // streams of replays that have ended, the oldest first, for those that begin while others go on
	suspect chan struct{} // holds a token while somebody is tried alone
}

// seat is one stream with those who watch over it.
type seat struct {
	src source

	tenants int           // guarded by the pool
	most    int           // that it ever had
	alone   bool          // a suspect sits here
	own     bool          // of a replay, which nobody shares
	limit   int           // with own: that of the size of responses
	gone    chan struct{} // closed when the stream is no good any more: whoever is left moves
	cause   error         // why, once it is closed
	born    time.Time
	heard   atomic.Int64 // how long after born it last answered anybody

	key      atomic.Pointer[hubKey] // of the last watch that was opened; nil before
	liveness *liveness              // of the one for live watches
}

func newSeat(s source) *seat { return &seat{src: s, gone: make(chan struct{}), born: time.Now()} }

// isLive reports whether the stream is for watches that are live.
func (s *seat) isLive() bool { return s.liveness != nil }

// silent is for how long the stream has not answered anybody.
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

// join takes a seat on the stream of live watches, which is opened if there is none, at another peer than the one to avoid
// where there is one. Over a Watcher of the user's, which may have any number of streams, each watch has a seat of its own,
// with the given patience. release must follow.
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

// watchOver has a stream retired if it is dead.
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

// needInterval is how often calls that are overdue have a stream asked at the most.
const needInterval = time.Second

// need asks for an answer of each stream of live watches, since something else of the client is overdue.
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

// acquire takes a seat for reading history, on a stream of its own while there are few. avoid is the peer that has just
// failed. A suspect gets the one that nobody shares, and waits for it; release must follow.
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
			best = s // the youngest of those: its token is the freshest
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

// forReplay opens a stream for a replay, which receives responses up to a limit (0 for what the client receives), and each
// only when it is asked for. release must follow.
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

// release gives a seat back. A stream that broke, or that refuses a tenant because its token is too old, takes nobody any
// more, sends the others away, and ends with its last tenant, as one that nobody uses does.
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
	_ = s.src.Close() // has no error to tell
	if s.alone {
		<-p.suspect
	}
}

// retire lets nobody join a stream any more, and sends away who is there. The caller holds mu.
func (p *pool) retire(s *seat, cause error) {
	at := slices.Index(p.seats, s)
	switch {
	case p.live == s:
		p.live = nil
	case at >= 0:
		p.seats = slices.Delete(p.seats, at, at+1)
	default:
		return // before
	}
	s.cause = cause
	close(s.gone)
}

// releaseOwn gives the stream of a replay back. It serves other replays while there are any, since a new stream may cost a
// login. The last maxStreams of them are kept: one replay can go on for hours, and a stream whose limit is unusual is of no
// use to others.
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
		_ = s.src.Close() // has no error to tell
	}
}

// shared reports whether the seat ever had two tenants at once, so that the one's fate may have been the other's fault, or
// is one to try suspects on.
func (p *pool) shared(s *seat) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.alone || s.most > 1
}

// streams is how many streams there are.
func (p *pool) streams() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.seats)
	if p.user != nil {
		n = min(n, 1) // as far as is known
	}
	if p.live != nil {
		n++
	}
	return n + len(p.suspect) + p.replays + len(p.idle)
}

// largerThanMax is in gRPC's error for a message that was refused for its size.
const largerThanMax = "larger than max"

// hidesRefusal reports whether replays that deliver nothing may be those of responses that were refused for their size: a
// Watcher of the user's does not say.
func (p *pool) hidesRefusal(stalls int) bool { return p.user != nil && stalls >= maxStalls }

// oversized reports whether a stream broke because a message was larger than the client receives.
func oversized(err error) bool {
	return err != nil && retry.Code(err) == codes.ResourceExhausted && strings.Contains(retry.Message(err), largerThanMax)
}
