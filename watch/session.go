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
	failures  int    // streams in a row that broke before they had answered
	silences  int    // of them, those that never answered
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
	defer h.core.outages.ended(h)
	for {
		err := h.session()
		if h.ctx.Err() != nil {
			return
		}
		if end := final(err); end != nil {
			h.fail(end)
			return
		}
		if c, ok := errors.AsType[*compaction](err); ok && c.oldest > h.at().next() {
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
	err = explained(h.core.cli, h.follow(s))
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
	h.failures++
	h.core.outages.failed(h, h.name, h.failures, err)
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
	goal, err := h.arrive(st.first.header)
	if err != nil {
		return err
	}
	from := h.at()
	if !from.reaches(goal) {
		st.stop()
		replay, err := s.open(h.ctx, &h.core.wg, h.key, start{rev: from.next(), fragments: h.fragments}, patienceMin)
		if err != nil {
			return err
		}
		if hdr := replay.first.header; hdr.GetRevision() < goal.rev || newHistoryID(st.first.header, 0).mismatched(hdr) {
			replay.stop()
			return errOtherMember // a Watcher of the user's has asked another one
		}
		st = replay
	}
	if from.reaches(goal) {
		h.whole.Store(st.heard.UnixNano())
		h.become(StateLive, time.Now(), nil)
	} else {
		h.become(StateSyncing, time.Now(), nil)
	}
	err = h.serve(st, goal)
	switch {
	case !from.reaches(h.at()):
		h.stalls, h.fragments = 0, false
	case !from.reaches(goal) && !errors.Is(err, errMoves):
		h.stalls++
		h.fragments = h.fragments || h.core.pool.hidesRefusal(h.stalls)
	}
	return err
}

// arrive compares the confirmation of a watch at now with what is in the log. Up to the goal that it returns, history has to
// be read.
func (h *hub) arrive(hdr *pb.ResponseHeader) (goal position, err error) {
	at := h.at()
	if at == (position{}) {
		h.history.Store(newHistoryID(hdr, 1))
		at = position{history: 1, rev: hdr.GetRevision()}
		h.publish(nil, at)
		return at, nil
	}
	h.mu.Lock()
	h.reopened++
	h.mu.Unlock()
	lost := h.lost
	h.lost = nil
	mismatched := h.looksOther(hdr)
	if mismatched {
		other, err := h.confirm()
		if err != nil {
			h.lost = lost
			return position{}, err
		}
		if other {
			to := at.rewritten(hdr.GetRevision())
			h.skip(&gap{why: rewritten, from: at, to: to, begins: newHistoryID(hdr, to.history)})
			return to, nil
		}
	}
	here := at.at(hdr.GetRevision()) // also that of a member that lags: it has what lies between
	switch {
	case at.reaches(here): // nothing was missed; what the member repeats is dropped
	case lost != nil:
		h.skip(&gap{why: compacted, from: at, to: here, oldest: lost.oldest})
	case h.listsInstead(at, here):
		h.skip(&gap{why: skipped, from: at, to: here})
	}
	if !mismatched {
		h.history.Store(newHistoryID(hdr, at.history))
	}
	return here, nil
}

// skip appends a gap to the log.
func (h *hub) skip(g *gap) {
	h.core.log.InfoContext(h.ctx, "watch lists anew", "selector", h.name, "reason", g.why.String(),
		"from_revision", g.from.next(), "to_revision", g.to.rev)
	h.publish([]*node{{at: g.to, gap: g}}, g.to)
}

// listsInstead reports whether the log skips the history up to a position, so that consumers that keep state list, and the
// others read it on their own. It does where all keep state and listing is faster, and where some do and replays make no
// progress.
func (h *hub) listsInstead(from, to position) bool {
	d, some, all := h.listing()
	return all && d < replayTime(to.rev-from.rev) || some && h.stalls >= maxStalls
}

// looksOther reports whether a confirmation may come from another history than the log.
func (h *hub) looksOther(hdr *pb.ResponseHeader) bool {
	return hdr.GetRevision() < h.at().rev || h.history.Load().mismatched(hdr)
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
func (h *hub) serve(st *stream, goal position) error {
	timer := time.NewTimer(h.pace(goal))
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
			if err := h.take(&a, goal); err != nil {
				return err
			}
			if a.partial {
				continue
			}
			if h.at().reaches(goal) {
				st.fragmenting = false
				h.whole.Store(st.heard.UnixNano())
			}
			if answered {
				continue
			}
			answered = true
			h.failures, h.silences, h.reopen = 0, 0, reopening()
			h.core.outages.succeeded(h)
			if st.seat.alone {
				h.suspect = false
				return errMoves
			}
		case <-timer.C:
			if err := st.dead(h.silences); err != nil {
				return err
			}
			pace := h.pace(goal)
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
func (h *hub) pace(goal position) time.Duration {
	if !h.at().reaches(goal) {
		return askBehind
	}
	return askEvery
}

// take puts one answer into the log.
func (h *hub) take(a *answer, goal position) (err error) {
	at := h.at()
	to := at
	var nodes []*node
	switch {
	case len(a.events) > 0:
		if nodes, to, err = h.span.nodes(a.events, at); err != nil {
			return err
		}
	case a.progress():
		to = at.advance(at.at(a.header.GetRevision()))
	}
	if to != at {
		h.publish(nodes, to)
	}
	if !at.reaches(goal) && to.reaches(goal) {
		h.become(StateLive, time.Now(), nil)
	}
	return nil
}
