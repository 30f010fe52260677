package watch

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// hubKey says what a server-side watch delivers: those with equal keys are one.
type hubKey struct {
	ns, from, to        string
	prev, puts, deletes bool
	hide                bool
}

// start says where a server-side watch begins, and how it is delivered.
type start struct {
	rev int64 // the first revision to deliver; 0 is from now on

	// fragments has etcd split responses of more than 2 MiB. It costs etcd time that is quadratic in the number of events,
	// so it is requested only after a whole response was refused for its size.
	fragments bool
}

// request asks for a watch.
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

// stream is one server-side watch that etcd has confirmed.
type stream struct {
	seat  *seat
	ctx   context.Context //nolint:containedctx // the life of the watch
	stop  context.CancelFunc
	ch    <-chan answer
	first answer    // the confirmation
	begun time.Time // before it was asked for
	heard time.Time
	early []answer // have come before the hub follows the watch

	fragmenting bool // etcd splits the history that was asked for, which may take it minutes
}

// open opens a watch and waits for the confirmation, for as long as bound: the call itself blocks while no
// server answers. An answer that is an error comes as a *refusal, or a *compaction.
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
	_, users := s.src.(given) // for which fragments are a guess
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

// note remembers that the watch has answered.
func (st *stream) note() {
	st.heard = time.Now()
	st.seat.heard.Store(int64(st.heard.Sub(st.seat.born)))
}

// more allows one more response to be received, where each is asked for.
func (st *stream) more() { st.seat.src.more() }

// dead is the error of a watch that has not answered for too long; after silences others of its kind it may take longer.
// So it may where the stream answers somebody else: a watch that is catching up keeps etcd from answering the others on its stream.
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

// askWithin bounds the handing over of a progress request.
const askWithin = time.Second

// ask asks for a progress report. It reports by the answer, or by the lack of one.
func (st *stream) ask() {
	ctx, stop := context.WithTimeout(st.ctx, askWithin)
	defer stop()
	_ = st.seat.src.progress(ctx) // what is wrong with the stream shows in its channel
}
