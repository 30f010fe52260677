package watchstream

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdkit/etcdkit/internal/notify"
)

// Stream is a stream and its users.
type Stream struct {
	transport transport

	users            int           // guarded by the pool
	maxUsers         int           // the maximum of users so far
	Isolated         bool          // used by an isolated watch, which shares it with nobody
	ForReplay        bool          // used by a replay, which shares it with nobody
	maxResponseBytes int           // with ForReplay: maximum size of a response
	Retired          chan struct{} // closed when the stream is retired: its users must move
	RetireErr        error         // the error that retired it; set before retired is closed
	openedAt         time.Time
	lastResponse     atomic.Int64 // when it last answered a watch, as the time since openedAt

	lastKey  atomic.Pointer[Spec] // of the watch opened last; nil before
	liveness *livenessChecker     // of a stream for live watches, otherwise nil
}

func newStream(s transport) *Stream {
	return &Stream{transport: s, Retired: make(chan struct{}), openedAt: time.Now()}
}

// IsLive reports whether the stream is for live watches.
func (s *Stream) IsLive() bool { return s.liveness != nil }

// silence returns the time since the stream last answered a watch.
func (s *Stream) silence() time.Duration {
	return time.Since(s.openedAt) - time.Duration(s.lastResponse.Load())
}

// Peer returns the address of the server, or "" if it is unknown.
func (s *Stream) Peer() string { return s.transport.peer() }

// PauseChecks stops or resumes the checks of a stream of live watches. They must be paused while
// its only watch is catching up.
func (s *Stream) PauseChecks(paused bool) { s.liveness.paused.Store(paused) }

// RequestCheck requests a response of the stream. It does not wait.
func (s *Stream) RequestCheck() { notify.Token(s.liveness.requested) }

// Open opens a watch and waits up to 4 s for the confirmation. If etcd answers with an error,
// open returns a *RefusedError or a *CompactionError.
func (s *Stream) Open(ctx context.Context, wg *sync.WaitGroup, spec Spec, start Start) (*Watch, error) {
	return s.open(ctx, wg, spec, start, minSilenceTimeout)
}

func (s *Stream) open(ctx context.Context, wg *sync.WaitGroup, spec Spec, start Start, timeout time.Duration) (*Watch, error) {
	ctx, stop := context.WithCancel(ctx)
	w, err := s.requestWatch(ctx, wg, spec, start, timeout)
	if err != nil {
		stop()
		return nil, err
	}
	w.Cancel = stop
	w.NoteResponse()
	s.lastKey.Store(&spec)
	return w, nil
}

func (s *Stream) requestWatch(ctx context.Context, wg *sync.WaitGroup, spec Spec, start Start, timeout time.Duration) (*Watch, error) {
	s.transport.allowReceive()
	requestedAt := time.Now()
	opened := make(chan (<-chan Response), 1)
	wg.Go(func() { opened <- s.transport.watch(ctx, wg, spec, start) })
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	_, overUserWatcher := s.transport.(userWatcher) // fragments may not be supported there
	w := &Watch{Stream: s, ctx: ctx, RequestedAt: requestedAt, Fragmenting: start.Fragments && start.Rev > 0 && !overUserWatcher}
	select {
	case w.Responses = <-opened:
	case <-timer.C:
		return nil, fmt.Errorf("%w to a new watch within %v", ErrNoResponse, timeout)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case resp, ok := <-w.Responses:
		w.confirmation = resp
		return w, resp.checkConfirmation(ok)
	case <-timer.C:
		return nil, fmt.Errorf("%w to a new watch within %v", ErrNoResponse, timeout)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Watch is a server-side watch that etcd has confirmed.
type Watch struct {
	Stream       *Stream
	ctx          context.Context //nolint:containedctx // ends the watch
	Cancel       context.CancelFunc
	Responses    <-chan Response
	confirmation Response  // the confirmation
	RequestedAt  time.Time // set before the watch was requested
	LastResponse time.Time
	Buffered     []Response // arrived before the broadcaster used the watch

	Fragmenting bool // etcd splits the requested history, which may take minutes
}

// silenceTimeout returns after which time without a response a stream is dead. Each of the
// consecutive timeouts before doubles it.
func silenceTimeout(timeouts int) time.Duration {
	return min(minSilenceTimeout<<min(timeouts, 8), maxSilenceTimeout)
}

// Context returns the context of the watch, which ends with the caller's and with Cancel.
func (w *Watch) Context() context.Context { return w.ctx }

// Header returns the header of the confirmation.
func (w *Watch) Header() *pb.ResponseHeader { return w.confirmation.Header }

// NoteResponse records that the watch has responded.
func (w *Watch) NoteResponse() {
	w.LastResponse = time.Now()
	w.Stream.lastResponse.Store(int64(w.LastResponse.Sub(w.Stream.openedAt)))
}

// AllowReceive allows one more response to be received, if the stream is paced.
func (w *Watch) AllowReceive() { w.Stream.transport.allowReceive() }

// Timeouts of the watches on a stream.
const (
	minSilenceTimeout = responseTimeout  // a stream is dead after this long without a response
	maxSilenceTimeout = 32 * time.Second // the same while it is catching up and cannot answer
	// fragmentTimeout bounds the time for one fragment. etcd is silent while it measures the events
	// one by one.
	fragmentTimeout = 10 * time.Minute
)

// CheckSilence returns an error if the watch has not responded for too long. Each of the timeouts
// before doubles the limit, up to maxSilenceTimeout. maxSilenceTimeout also applies if the stream
// answers another watch, because etcd does not answer for a stream while one of its watches is
// catching up.
func (w *Watch) CheckSilence(timeouts int) error {
	limit := silenceTimeout(timeouts)
	if w.Stream.silence() < limit {
		limit = maxSilenceTimeout
	}
	if w.Fragmenting {
		limit = fragmentTimeout
	}
	if silent := time.Since(w.LastResponse); silent >= limit {
		return fmt.Errorf("%w for %v", ErrNoResponse, silent.Round(time.Millisecond))
	}
	return nil
}

// progressSendTimeout bounds the sending of a progress request.
const progressSendTimeout = time.Second

// RequestProgress requests a progress report, which arrives as a response of the watch.
func (w *Watch) RequestProgress() {
	ctx, stop := context.WithTimeout(w.ctx, progressSendTimeout)
	defer stop()
	_ = w.Stream.transport.requestProgress(ctx) // an error of the stream arrives on its channel
}
