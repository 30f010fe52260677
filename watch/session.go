package watch

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// The times of a server-side watch.
const (
	askEvery     = time.Second            // a quiet stream is asked for a progress report
	askBehind    = 100 * time.Millisecond // one that is catching up
	patienceMin  = 4 * time.Second        // without any answer the stream is dead
	patienceMost = 32 * time.Second       // for one that is replaying, which does not answer
	// fragmentTimeout is how long etcd may take for one fragment: it is silent while it measures the events one by one.
	fragmentTimeout = 10 * time.Minute
	reopenFirst     = 50 * time.Millisecond
	reopenMost      = 5 * time.Second
)

// maxStalls is how many replays in a row may deliver nothing before a state watch lists instead.
const maxStalls = 2

// flow is what a hub's goroutine keeps between two streams.
type flow struct {
	lost      *compaction
	reopen    backoff.BackOff
	silences  int    // streams in a row that never answered
	stalls    int    // replays in a row that delivered nothing
	suspect   bool   // the last stream broke in a way that another tenant may be to blame for
	fragments bool   // the last response was refused for its size
	avoid     string // the peer of the stream that failed last
}

// reopening returns fresh waits between two attempts to open a stream.
func reopening() backoff.BackOff {
	b := retry.Policy{BaseDelay: reopenFirst, MaxDelay: reopenMost}.Backoff()
	b.Reset()
	return b
}

// run is the hub's goroutine.
func (h *hub) run() {
	h.reopen = reopening()
	for {
		err := h.session()
		if h.ctx.Err() != nil {
			return
		}
		if end := final(err); end != nil {
			h.fail(end)
			return
		}
		if c, ok := errors.AsType[*compaction](err); ok && c.oldest > h.next {
			h.lost = c
			h.become(StateSyncing, time.Now(), err)
			continue // the history is gone: what there is now is there at once
		}
		if errors.Is(err, errMoves) {
			continue
		}
		h.core.counts.reconnects.Add(1)
		h.core.log.DebugContext(h.ctx, "watch stream is opened again", "selector", h.name, "error", err)
		if !sleep(h.ctx, h.reopen.NextBackOff()) {
			return
		}
	}
}

// sleep waits, and reports whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errMoves ends a watch that is well on its stream, and goes on with another one: a suspect that turned out to be innocent,
// or one whose stream serves others no more.
var errMoves = errors.New("moves to another stream")

// session opens a stream and follows it until it ends.
func (h *hub) session() error {
	s, err := h.core.pool.acquire(h.ctx, h.suspect, h.avoid)
	if err != nil {
		return err
	}
	err = h.follow(s)
	if h.ctx.Err() == nil && !errors.Is(err, errMoves) {
		h.blame(s, err)
	}
	h.core.pool.release(s, h.ctx.Err() == nil && spoils(err))
	return err
}

// spoils reports whether the end of a watch says something about its stream, so that the others there had better leave.
// That its history is gone does not, nor that its user may not read.
func spoils(err error) bool {
	_, gone := errors.AsType[*compaction](err)
	return err != nil && !gone && final(err) == nil && !errors.Is(err, errMoves)
}

// blame remembers what the end of a stream says about where to open the next.
func (h *hub) blame(s *seat, err error) {
	if _, ok := errors.AsType[*compaction](err); ok {
		return // the stream is well
	}
	h.avoid = s.src.peer()
	if errors.Is(err, errNoAnswer) {
		h.silences++
	}
	if oversized(err) && h.core.pool.shared(s) {
		h.suspect = true
	}
	if oversized(err) && (s.alone || !h.core.pool.shared(s)) {
		h.fragments = true
	}
	since := time.Now()
	if heard := h.heard.Load(); heard > 0 {
		since = time.Unix(0, heard)
	}
	h.become(StateStale, since, err)
}

// follow opens the watch at now, finds out what was missed, and follows it.
func (h *hub) follow(s *seat) error {
	st, err := s.open(h.ctx, &h.core.wg, h.key, start{fragments: h.fragments}, patienceMin)
	if err != nil {
		return err
	}
	defer func() { st.stop() }()
	h.heard.Store(st.heard.UnixNano())
	target, err := h.arrive(st.first.header)
	if err != nil {
		return err
	}
	from := h.next
	if target >= from {
		st.stop()
		replay, err := s.open(h.ctx, &h.core.wg, h.key, start{rev: from, fragments: h.fragments}, patienceMin)
		if err != nil {
			return err
		}
		st = replay
	}
	if h.safe.Load() >= target {
		h.whole.Store(st.heard.UnixNano())
		h.become(StateLive, time.Now(), nil)
	} else {
		h.become(StateSyncing, time.Now(), nil)
	}
	err = h.serve(st, target)
	switch {
	case h.next > from:
		h.stalls, h.fragments = 0, false
	case target >= from && !errors.Is(err, errMoves):
		h.stalls++
	}
	return err
}

// arrive compares the confirmation of a watch at now with what is in the log. Up to the revision it returns, history
// has to be read, where that is not in the log yet.
func (h *hub) arrive(hdr *pb.ResponseHeader) (target int64, err error) {
	w := hdr.GetRevision()
	first := h.next == 0
	if !first {
		h.mu.Lock()
		h.reopened++
		h.mu.Unlock()
	}
	switch {
	case first:
		h.begin(hdr, nil)
	case h.looksOther(hdr):
		other, err := h.confirm()
		if err != nil {
			return 0, err
		}
		if other {
			h.lost = nil
			h.begin(hdr, &gap{why: rewritten, after: h.next - 1, base: w, begins: lineageOf(hdr, h.epoch()+1)})
		}
		return 0, nil // or the member lags: it delivers from where it stands, and what is known already is dropped
	case h.lost != nil:
		h.begin(hdr, &gap{why: compacted, after: h.next - 1, oldest: h.lost.oldest, base: w})
		h.lost = nil
	case w >= h.next && h.listsInstead(w):
		h.begin(hdr, &gap{why: skipped, after: h.next - 1, base: w})
	case w >= h.next:
		target = w
	}
	h.lineage.Store(lineageOf(hdr, h.epoch()))
	return target, nil
}

// begin goes on from the confirmation of a watch at now, after a gap where there is one.
func (h *hub) begin(hdr *pb.ResponseHeader, g *gap) {
	var nodes []*node
	if g != nil {
		nodes = append(nodes, &node{rev: g.base, gap: g})
		h.core.log.InfoContext(h.ctx, "watch lists anew", "selector", h.name, "reason", g.why.String(),
			"from_revision", h.next, "to_revision", g.base)
	}
	h.publish(nodes, hdr.GetRevision()+1)
}

// listsInstead reports whether the log skips the history up to w, so that consumers that keep state list, and the others
// read it on their own. It does where all keep state and listing is faster, and where some do and replays make no progress.
func (h *hub) listsInstead(w int64) bool {
	d, some, all := h.listing()
	return all && d < replayTime(w-h.next+1) || some && h.stalls >= maxStalls
}

// looksOther reports whether a confirmation may come from another history than the log.
func (h *hub) looksOther(hdr *pb.ResponseHeader) bool {
	return hdr.GetRevision() < h.next-1 || h.lineage.Load().foreign(hdr)
}

// confirm asks the cluster, linearizably, whether its history is another one. A member that lags behind the others looks
// as one of another history does.
func (h *hub) confirm() (bool, error) {
	now, err := h.core.now(h.ctx, h.name, h.key.from)
	if err != nil {
		return false, fmt.Errorf("find out whether history was rewritten: %w", err)
	}
	return h.looksOther(now), nil
}

// serve puts what the stream delivers into the log.
func (h *hub) serve(st *stream, target int64) error {
	timer := time.NewTimer(h.pace(target))
	defer timer.Stop()
	answered := false
	for {
		select {
		case a, ok := <-st.ch:
			if err := a.failure(ok); err != nil {
				return err
			}
			st.note()
			h.heard.Store(st.heard.UnixNano())
			if a.partial {
				continue
			}
			h.take(&a, target)
			if h.next > target {
				st.fragmenting = false
				h.whole.Store(st.heard.UnixNano())
			}
			if answered {
				continue
			}
			answered = true
			h.silences, h.reopen = 0, reopening()
			if st.seat.alone {
				h.suspect = false
				return errMoves
			}
		case <-timer.C:
			if err := st.dead(h.silences); err != nil {
				return err
			}
			pace := h.pace(target)
			if time.Since(st.heard) >= pace/2 {
				st.ask()
			}
			timer.Reset(pace)
		case <-st.seat.gone:
			return errMoves // where the stream broke, the next one will be as good
		case <-h.asked:
			st.ask()
		case <-h.ctx.Done():
			return h.ctx.Err()
		}
	}
}

// pace is how often the stream is asked for progress.
func (h *hub) pace(target int64) time.Duration {
	if h.next <= target {
		return askBehind
	}
	return askEvery
}

// take puts one answer into the log.
func (h *hub) take(a *answer, target int64) {
	next := h.next
	var nodes []*node
	switch {
	case len(a.events) > 0:
		nodes = h.span.nodes(a.events, next)
		next = max(next, a.events[len(a.events)-1].Kv.GetModRevision()+1)
	case a.progress():
		next = max(next, a.header.GetRevision()+1)
	}
	behind := h.next <= target
	if len(nodes) > 0 || next != h.next {
		h.publish(nodes, next)
	}
	if behind && next > target {
		h.become(StateLive, time.Now(), nil)
	}
}
