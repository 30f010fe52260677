package watch

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// watchKey identifies what a server-side watch delivers. Requests with equal keys share one.
type watchKey struct {
	ns, from, to        string
	prev, puts, deletes bool
	hide                bool
}

// startOptions is where a server-side watch starts, and how it is delivered.
type startOptions struct {
	rev int64 // the first revision to deliver, or 0 for now

	// fragments makes etcd split responses larger than 2 MiB. It costs etcd time quadratic in the
	// number of events, so it is requested only after a response has exceeded the maximum size.
	fragments bool
}

// createRequest returns the request that creates a watch.
func (k watchKey) createRequest(at startOptions) *pb.WatchRequest {
	r := &pb.WatchCreateRequest{Key: []byte(k.from), StartRevision: at.rev, Fragment: at.fragments, PrevKv: k.prev}
	if k.to != keyspace.After(k.from) {
		r.RangeEnd = []byte(k.to)
	}
	if k.puts {
		r.Filters = append(r.Filters, pb.WatchCreateRequest_NODELETE)
	}
	if k.deletes {
		r.Filters = append(r.Filters, pb.WatchCreateRequest_NOPUT)
	}
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}
}

// confirmedWatch is a server-side watch that etcd has confirmed.
type confirmedWatch struct {
	stream       *pooledStream
	ctx          context.Context //nolint:containedctx // ends the watch
	cancel       context.CancelFunc
	responses    <-chan response
	confirmation response  // the confirmation
	requestedAt  time.Time // set before the watch was requested
	lastResponse time.Time
	buffered     []response // arrived before the broadcaster used the watch

	fragmenting bool // etcd splits the requested history, which may take minutes
}

// open opens a watch and waits up to timeout for the confirmation. If etcd answers with an error,
// open returns a *refusedError or a *compactedError.
func (s *pooledStream) open(ctx context.Context, wg *sync.WaitGroup, k watchKey, at startOptions, timeout time.Duration) (*confirmedWatch, error) {
	ctx, stop := context.WithCancel(ctx)
	w, err := s.requestWatch(ctx, wg, k, at, timeout)
	if err != nil {
		stop()
		return nil, err
	}
	w.cancel = stop
	w.noteResponse()
	s.lastKey.Store(&k)
	return w, nil
}

func (s *pooledStream) requestWatch(ctx context.Context, wg *sync.WaitGroup, k watchKey, at startOptions, timeout time.Duration) (*confirmedWatch, error) {
	s.transport.allowReceive()
	requestedAt := time.Now()
	opened := make(chan (<-chan response), 1)
	wg.Go(func() { opened <- s.transport.watch(ctx, wg, k, at) })
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	_, overUserWatcher := s.transport.(userWatcher) // fragments may not be supported there
	w := &confirmedWatch{stream: s, ctx: ctx, requestedAt: requestedAt, fragmenting: at.fragments && at.rev > 0 && !overUserWatcher}
	select {
	case w.responses = <-opened:
	case <-timer.C:
		return nil, fmt.Errorf("%w to a new watch within %v", errNoResponse, timeout)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case resp, ok := <-w.responses:
		w.confirmation = resp
		return w, resp.checkConfirmation(ok)
	case <-timer.C:
		return nil, fmt.Errorf("%w to a new watch within %v", errNoResponse, timeout)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// noteResponse records that the watch has responded.
func (w *confirmedWatch) noteResponse() {
	w.lastResponse = time.Now()
	w.stream.lastResponse.Store(int64(w.lastResponse.Sub(w.stream.openedAt)))
}

// allowReceive allows one more response to be received, if the stream is paced.
func (w *confirmedWatch) allowReceive() { w.stream.transport.allowReceive() }

// checkSilence returns an error if the watch has not responded for too long. Each of the timeouts
// before doubles the limit, up to maxSilenceTimeout. maxSilenceTimeout also applies if the stream
// answers another watch, because etcd does not answer for a stream while one of its watches is
// catching up.
func (w *confirmedWatch) checkSilence(silences int) error {
	limit := min(minSilenceTimeout<<min(silences, 8), maxSilenceTimeout)
	if w.stream.silence() < limit {
		limit = maxSilenceTimeout
	}
	if w.fragmenting {
		limit = fragmentTimeout
	}
	if silent := time.Since(w.lastResponse); silent >= limit {
		return fmt.Errorf("%w for %v", errNoResponse, silent.Round(time.Millisecond))
	}
	return nil
}

// progressSendTimeout bounds the sending of a progress request.
const progressSendTimeout = time.Second

// requestProgress requests a progress report, which arrives as a response of the watch.
func (w *confirmedWatch) requestProgress() {
	ctx, stop := context.WithTimeout(w.ctx, progressSendTimeout)
	defer stop()
	_ = w.stream.transport.requestProgress(ctx) // an error of the stream arrives on its channel
}
