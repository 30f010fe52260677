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

// Intervals and timeouts of a server-side watch.
const (
	askBehind    = 100 * time.Millisecond // between progress requests while catching up
	patienceMin  = answerTimeout          // a stream is dead after this long without an answer
	patienceMost = 32 * time.Second       // the same while it is catching up and cannot answer
	// fragmentTimeout bounds the time for one fragment. etcd is silent while it measures the events
	// one by one.
	fragmentTimeout = 10 * time.Minute
	reopenFirst     = 50 * time.Millisecond
	reopenMost      = 5 * time.Second
)

// maxStalls is how many replays in a row may deliver nothing before a state watch lists instead.
const maxStalls = 2

// flow is the state that a hub's goroutine keeps between two streams.
type flow struct {
	lost      *compaction
	reopen    backoff.BackOff
	failures  int    // consecutive failures without a complete response between them
	silences  int    // of these, the ones with errNoAnswer
	stalls    int    // consecutive replays that delivered nothing
	suspect   bool   // a response was too large on a shared stream, and may have been this hub's
	fragments bool   // request fragments, because a response exceeded the maximum size
	avoid     string // the peer of the stream that failed last
}

// reopening returns a new backoff for opening a stream.
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
			continue // without a pause: the history is gone, and the watch can continue from now
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

// sleep waits for d. It returns false if ctx ends first.
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

// errMoves ends a server-side watch although its stream works, and opens another one: a suspect has
// turned out not to be to blame, or its stream was retired.
var errMoves = errors.New("moves to another stream")

// session opens a watch on the stream of live watches and follows it until it ends.
func (h *hub) session() error {
	s := h.core.pool.join(h.avoid, min(patienceMin<<min(h.silences, 8), patienceMost))
	at, err := h.follow(s)
	err = explained(h.core.cli, err)
	if h.ctx.Err() == nil && !errors.Is(err, errMoves) {
		h.blame(at, err)
	}
	h.core.pool.release(s, at == s && h.ctx.Err() == nil && spoils(err))
	return err
}

// spoils reports whether the error of a watch concerns its stream, so that the other watches there
// should move. A compaction does not, nor does a permission error.
func spoils(err error) bool {
	_, gone := errors.AsType[*compaction](err)
	return err != nil && !gone && final(err) == nil && !errors.Is(err, errMoves)
}

// blame records the error of a stream, and determines where to open the next one.
func (h *hub) blame(s *seat, err error) {
	if _, ok := errors.AsType[*compaction](err); ok {
		return // the stream works
	}
	h.failures++
	h.core.outages.failed(h, h.name, h.failures, err)
	h.avoid = s.src.peer()
	if errors.Is(err, errNoAnswer) {
		h.silences++
	}
	// A response that broke a stream of live watches is read again on a stream for catching up.
	if oversized(err) && (!s.isLive() || h.core.pool.user != nil) {
		shared := h.core.pool.shared(s)
		h.suspect = h.suspect || shared
		h.fragments = h.fragments || s.alone || !shared
	}
	since := time.Now()
	if heard := h.heard.Load(); heard > 0 {
		since = time.Unix(0, heard)
	}
	h.become(StateStale, since, err)
}

// follow opens a watch at revision 0, "now", reads what was missed and follows the watch until it
// ends. It returns the stream on which the error happened.
func (h *hub) follow(s *seat) (at *seat, err error) {
	st, err := s.open(h.ctx, &h.core.wg, h.key, start{fragments: h.fragments}, patienceMin)
	if err != nil {
		return s, err
	}
	defer func() {
		if st != nil {
			st.stop()
		}
	}()
	h.heard.Store(st.heard.UnixNano())
	goal, err := h.arrive(st.first.header)
	if err != nil {
		return s, err
	}
	from := h.at()
	if from.reaches(goal) {
		h.wholeAsOf(st.begun)
		h.become(StateLive, time.Now(), nil)
		return s, h.serve(st, goal)
	}
	st.stop()
	first := st.first.header
	at = s
	if h.core.pool.user == nil {
		st, at, err = h.catchUp(s, first, goal)
	} else if st, err = h.openHistory(s, first, goal); err == nil {
		err = h.serve(st, goal)
	}
	switch {
	case !from.reaches(h.at()):
		h.stalls, h.fragments = 0, false
	case !from.reaches(goal) && !errors.Is(err, errMoves):
		h.stalls++
		h.fragments = h.fragments || h.core.pool.hidesRefusal(h.stalls)
	}
	if err == nil {
		return s, h.serve(st, goal)
	}
	return at, err
}

// arrive compares the confirmation of a watch at revision 0 with the log. History must be read up
// to the goal that it returns.
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
	here := at.at(hdr.GetRevision()) // also if the member lags: it has the changes up to here
	switch {
	case at.reaches(here): // nothing was missed; changes that the member repeats are dropped
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

// listsInstead reports whether the log skips the history between two positions. State watches then
// list, and events watches read the history on their own. The log skips it if all are state watches
// and listing is faster, or if some are and replays make no progress.
func (h *hub) listsInstead(from, to position) bool {
	d, some, all := h.listing()
	return all && d < replayTime(to.rev-from.rev) || some && h.stalls >= maxStalls
}

// looksOther reports whether a response may come from another history than the log.
func (h *hub) looksOther(hdr *pb.ResponseHeader) bool {
	return hdr.GetRevision() < h.at().rev || h.history.Load().mismatched(hdr)
}

// confirm reports whether the cluster has another history than the log, using a linearizable read.
// The response of a lagging member alone does not tell.
func (h *hub) confirm() (bool, error) {
	now, err := h.core.now(h.ctx, h.name, h.key.from)
	if err != nil {
		return false, fmt.Errorf("find out whether history was rewritten: %w", err)
	}
	return h.looksOther(now), nil
}

// serve appends the changes of a watch to the log. Until the log reaches goal, it requests progress
// every askBehind; after that, only if a caller needs it.
func (h *hub) serve(st *stream, goal position) error {
	answered := false
	for i := range st.early {
		if err := h.receive(st, &st.early[i], goal, &answered); err != nil {
			return err
		}
	}
	st.early = nil
	tick := time.NewTicker(askBehind)
	defer tick.Stop()
	arrived := false
	arrive := func() {
		if !arrived && h.at().reaches(goal) {
			arrived = true
			tick.Stop()
			st.seat.liveness.paused.Store(false)
			st.seat.need() // the confirmation says little about the stream
		}
	}
	arrive()
	if !arrived {
		st.seat.liveness.paused.Store(true)
	}
	for {
		select {
		case a, ok := <-st.ch:
			if err := a.failure(ok); err != nil {
				return err
			}
			if err := h.receive(st, &a, goal, &answered); err != nil {
				return err
			}
			arrive()
		case <-tick.C:
			if err := st.dead(h.silences); err != nil {
				return err
			}
			st.ask()
		case <-st.seat.gone:
			return st.seat.cause
		case <-h.asked:
			if arrived {
				st.seat.need()
			} else {
				st.ask()
			}
		case <-h.ctx.Done():
			return h.ctx.Err()
		}
	}
}

// receive appends one response to the log. The first complete one of a stream resets the failure
// counters and the backoff. answered records that it has arrived.
func (h *hub) receive(st *stream, a *answer, goal position, answered *bool) error {
	st.note()
	h.heard.Store(st.heard.UnixNano())
	if err := h.take(a, goal); err != nil {
		return err
	}
	if a.partial {
		return nil
	}
	if h.at().reaches(goal) {
		st.fragmenting = false
		if !a.asOf.IsZero() {
			h.wholeAsOf(a.asOf)
		}
	}
	if !*answered {
		*answered = true
		h.failures, h.silences, h.reopen = 0, 0, reopening()
		h.core.outages.succeeded(h)
	}
	return nil
}

// take appends the changes of one response to the log.
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
