package watch

import (
	"context"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// hubKey says what a server-side watch delivers: those with equal keys are one.
type hubKey struct {
	ns, from, to        string
	prev, puts, deletes bool
	hide                bool
}

// options are those of the server-side watch, from rev on; 0 is from now on.
func (k hubKey) options(rev int64) []clientv3.OpOption {
	opts := []clientv3.OpOption{clientv3.WithCreatedNotify(), clientv3.WithFragment(), clientv3.WithRev(rev)}
	if k.to != keyspace.After(k.from) {
		opts = append(opts, clientv3.WithRange(k.to))
	}
	if k.prev {
		opts = append(opts, clientv3.WithPrevKV())
	}
	if k.puts {
		opts = append(opts, clientv3.WithFilterDelete())
	}
	if k.deletes {
		opts = append(opts, clientv3.WithFilterPut())
	}
	return opts
}

// stream is one server-side watch that etcd has confirmed.
type stream struct {
	seat  *seat
	ctx   context.Context //nolint:containedctx // is the watch: client/v3 finds it, and ends it, by its context
	stop  context.CancelFunc
	ch    clientv3.WatchChan
	first clientv3.WatchResponse // the confirmation
	heard time.Time
}

// open opens a watch from rev on, and waits for the confirmation, for as long as bound: the call itself blocks while no
// server answers. An answer that is an error comes as a *refusal, or a *compaction.
func (s *seat) open(ctx context.Context, wg *sync.WaitGroup, k hubKey, rev int64, bound time.Duration) (*stream, error) {
	ctx, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
	st, err := s.opened(ctx, wg, k, rev, bound)
	if err != nil {
		stop()
		return nil, err
	}
	st.stop = stop
	st.note()
	return st, nil
}

func (s *seat) opened(ctx context.Context, wg *sync.WaitGroup, k hubKey, rev int64, bound time.Duration) (*stream, error) {
	got := make(chan clientv3.WatchChan, 1)
	wg.Go(func() { got <- s.src.Watch(ctx, k.from, k.options(rev)...) })
	timer := time.NewTimer(bound)
	defer timer.Stop()
	st := &stream{seat: s, ctx: ctx}
	select {
	case st.ch = <-got:
	case <-timer.C:
		return nil, fmt.Errorf("%w to a new watch within %v", errNoAnswer, bound)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case resp, ok := <-st.ch:
		st.first = resp
		return st, confirmed(&resp, ok)
	case <-timer.C:
		return nil, fmt.Errorf("%w to a new watch within %v", errNoAnswer, bound)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// confirmed checks that the first answer of a watch is its confirmation.
func confirmed(resp *clientv3.WatchResponse, ok bool) error {
	switch {
	case !ok:
		return errEnded
	case resp.CompactRevision > 0:
		return &compaction{resp.CompactRevision}
	case resp.Err() != nil:
		return &refusal{resp.Err()}
	case !resp.Created || resp.Header.GetRevision() == 0:
		return fmt.Errorf("%w: the first answer does not confirm the watch", errEnded)
	}
	return nil
}

// note remembers that the watch has answered.
func (st *stream) note() {
	st.heard = time.Now()
	st.seat.heard.Store(st.heard.UnixNano())
}

// dead is the error of a watch that has not answered for too long; after silences others of its kind it may take longer.
// So it may where the stream answers somebody else: a watch that is catching up keeps etcd from answering the others on its stream.
func (st *stream) dead(silences int) error {
	limit := min(patienceMin<<min(silences, 8), patienceMost)
	if time.Since(time.Unix(0, st.seat.heard.Load())) < limit {
		limit = patienceMost
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
	_ = st.seat.src.RequestProgress(ctx) // what is wrong with the stream shows in its channel
}

// received checks one answer of an open watch. Its error is the end of the watch.
func received(resp *clientv3.WatchResponse, ok bool) error {
	switch {
	case !ok:
		return errEnded
	case resp.CompactRevision > 0:
		return &compaction{resp.CompactRevision}
	}
	return resp.Err()
}
