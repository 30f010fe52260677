package watch

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// hubKey identifies what a server-side watch delivers. Requests with equal keys share one.
type hubKey struct {
	ns, from, to        string
	prev, puts, deletes bool
	hide                bool
}

// start is where a server-side watch starts, and how it is delivered.
type start struct {
	rev int64 // the first revision to deliver, or 0 for now

	// fragments makes etcd split responses larger than 2 MiB. It costs etcd time quadratic in the
	// number of events, so it is requested only after a response has exceeded the maximum size.
	fragments bool
}

// request returns the request that creates a watch.
func (k hubKey) request(at start) *pb.WatchRequest {
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

// stream is a server-side watch that etcd has confirmed.
type stream struct {
	seat  *seat
	ctx   context.Context //nolint:containedctx // ends the watch
	stop  context.CancelFunc
	ch    <-chan answer
	first answer    // the confirmation
	begun time.Time // set before the watch was requested
	heard time.Time
	early []answer // arrived before the hub followed the watch

	fragmenting bool // etcd splits the requested history, which may take minutes
}

// open opens a watch and waits up to bound for the confirmation. If etcd answers with an error,
// open returns a *refusal or a *compaction.
func (s *seat) open(ctx context.Context, wg *sync.WaitGroup, k hubKey, at start, bound time.Duration) (*stream, error) {
	ctx, stop := context.WithCancel(ctx)
	st, err := s.opened(ctx, wg, k, at, bound)
	if err != nil {
		stop()
		return nil, err
	}
	st.stop = stop
	st.note()
	s.key.Store(&k)
	return st, nil
}

func (s *seat) opened(ctx context.Context, wg *sync.WaitGroup, k hubKey, at start, bound time.Duration) (*stream, error) {
	s.src.more()
	begun := time.Now()
	got := make(chan (<-chan answer), 1)
	wg.Go(func() { got <- s.src.watch(ctx, wg, k, at) })
	timer := time.NewTimer(bound)
	defer timer.Stop()
	_, users := s.src.(given) // fragments may not be supported there
	st := &stream{seat: s, ctx: ctx, begun: begun, fragmenting: at.fragments && at.rev > 0 && !users}
	select {
	case st.ch = <-got:
	case <-timer.C:
		return nil, fmt.Errorf("%w to a new watch within %v", errNoAnswer, bound)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case a, ok := <-st.ch:
		st.first = a
		return st, a.confirmed(ok)
	case <-timer.C:
		return nil, fmt.Errorf("%w to a new watch within %v", errNoAnswer, bound)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// note records that the watch has answered.
func (st *stream) note() {
	st.heard = time.Now()
	st.seat.heard.Store(int64(st.heard.Sub(st.seat.born)))
}

// more allows one more response to be received, if the stream is paced.
func (st *stream) more() { st.seat.src.more() }

// dead returns an error if the watch has not answered for too long. Each of the silences before
// doubles the limit, up to patienceMost. patienceMost also applies if the stream answers another
// watch, because etcd does not answer for a stream while one of its watches is catching up.
func (st *stream) dead(silences int) error {
	limit := min(patienceMin<<min(silences, 8), patienceMost)
	if st.seat.silent() < limit {
		limit = patienceMost
	}
	if st.fragmenting {
		limit = fragmentTimeout
	}
	if silent := time.Since(st.heard); silent >= limit {
		return fmt.Errorf("%w for %v", errNoAnswer, silent.Round(time.Millisecond))
	}
	return nil
}

// askWithin bounds the sending of a progress request.
const askWithin = time.Second

// ask requests a progress report, which arrives as an answer of the watch.
func (st *stream) ask() {
	ctx, stop := context.WithTimeout(st.ctx, askWithin)
	defer stop()
	_ = st.seat.src.progress(ctx) // an error of the stream arrives on its channel
}
