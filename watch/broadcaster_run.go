package watch

import (
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/watchstream"
)

// reconnectState is the state that a broadcaster's goroutine keeps between two streams.
type reconnectState struct {
	compacted *watchstream.CompactionError
	backoff   backoff.BackOff
	failures  int // consecutive failures without a complete response between them
	timeouts  int // of these, the ones with ErrNoResponse
	stalls    int // consecutive replays that delivered nothing
	// a response was too large on a shared stream, and may have been this broadcaster's
	isolate   bool
	fragments bool   // request fragments, because a response exceeded the maximum size
	avoidPeer string // the peer of the stream that failed last
}

// run is the broadcaster's goroutine.
func (b *broadcaster) run() {
	b.backoff = newBackoff()
	defer b.core.outages.ended(b)
	for {
		err := b.serve()
		if b.ctx.Err() != nil {
			return
		}
		if permanent := permanentError(err); permanent != nil {
			b.end(permanent)
			return
		}
		if c, ok := errors.AsType[*watchstream.CompactionError](err); ok && c.Oldest > b.position().nextRevision() {
			b.compacted = c
			b.setState(StateSyncing, time.Now(), err)
			continue // without a pause: the history is gone, and the watch can continue from now
		}
		if errors.Is(err, watchstream.ErrMoved) {
			continue
		}
		b.core.counters.reconnects.Add(1)
		b.core.log.DebugContext(b.ctx, "watch is reopened", "selector", b.selector, "error", err)
		if retry.Sleep(b.ctx, b.backoff.NextBackOff()) != nil {
			return
		}
	}
}

// serve opens a watch on the stream of live watches and follows it until it ends.
func (b *broadcaster) serve() error {
	stream := b.core.pool.AcquireLive(b.avoidPeer, b.timeouts)
	failed, err := b.syncAndReceive(stream)
	err = withConnectionError(b.core.cli, err)
	if b.ctx.Err() == nil && !errors.Is(err, watchstream.ErrMoved) {
		b.recordFailure(failed, err)
	}
	b.core.pool.Release(stream, failed == stream && b.ctx.Err() == nil && isStreamError(err))
	return err
}

// syncAndReceive opens a watch at revision 0, "now", reads what was missed and follows the watch
// until it ends. It returns the stream on which the error happened.
func (b *broadcaster) syncAndReceive(stream *watchstream.Stream) (failed *watchstream.Stream, err error) {
	w, err := stream.Open(b.ctx, &b.core.wg, b.key.Spec, watchstream.Start{Fragments: b.fragments})
	if err != nil {
		return stream, err
	}
	defer func() {
		if w != nil {
			w.Cancel()
		}
	}()
	b.lastResponse.Store(w.LastResponse.UnixNano())
	goal, err := b.reconcile(w.Header())
	if err != nil {
		return stream, err
	}
	from := b.position()
	if from.reaches(goal) {
		b.setCompleteAt(w.RequestedAt)
		b.setState(StateLive, time.Now(), nil)
		return stream, b.receive(w, goal)
	}
	w.Cancel()
	first := w.Header()
	failed = stream
	if !b.core.pool.OverUserWatcher() {
		w, failed, err = b.catchUp(stream, first, goal)
	} else if w, err = b.openHistory(stream, first, goal); err == nil {
		err = b.receive(w, goal)
	}
	switch {
	case !from.reaches(b.position()):
		b.stalls, b.fragments = 0, false
	case !from.reaches(goal) && !errors.Is(err, watchstream.ErrMoved):
		b.stalls++
		b.fragments = b.fragments || b.core.mayHideRefusal(b.stalls)
	}
	if err == nil {
		return stream, b.receive(w, goal)
	}
	return failed, err
}

// reconcile compares the confirmation of a watch at revision 0 with the log. History must be read
// up to the goal that it returns.
func (b *broadcaster) reconcile(hdr *pb.ResponseHeader) (goal position, err error) {
	from := b.position()
	if from == (position{}) {
		b.history.Store(newHistoryID(hdr, 1))
		from = position{history: 1, rev: hdr.GetRevision()}
		b.append(nil, from)
		return from, nil
	}
	b.mu.Lock()
	b.reopened++
	b.mu.Unlock()
	compacted := b.compacted
	b.compacted = nil
	mismatched := b.mayBeRewritten(hdr)
	if mismatched {
		rewritten, err := b.confirmRewritten()
		if err != nil {
			b.compacted = compacted
			return position{}, err
		}
		if rewritten {
			to := from.nextHistory(hdr.GetRevision())
			b.appendGap(&gap{cause: gapRewritten, from: from, to: to, history: newHistoryID(hdr, to.history)})
			return to, nil
		}
	}
	// also if the member lags: it has the changes up to here
	here := from.atRevision(hdr.GetRevision())
	switch {
	case from.reaches(here): // nothing was missed; changes that the member repeats are dropped
	case compacted != nil:
		b.appendGap(&gap{cause: gapCompacted, from: from, to: here, oldest: compacted.Oldest})
	case b.prefersList(from, here):
		b.appendGap(&gap{cause: gapSkipped, from: from, to: here})
	}
	if !mismatched {
		b.history.Store(newHistoryID(hdr, from.history))
	}
	return here, nil
}

// mayBeRewritten reports whether a response may come from another history than the log.
func (b *broadcaster) mayBeRewritten(hdr *pb.ResponseHeader) bool {
	return hdr.GetRevision() < b.position().rev || b.history.Load().mismatched(hdr)
}

// confirmRewritten reports whether the cluster has another history than the log, using a
// linearizable read. The response of a lagging member alone does not tell.
func (b *broadcaster) confirmRewritten() (bool, error) {
	now, err := b.core.readHeader(b.ctx, b.selector, b.key.From)
	if err != nil {
		return false, fmt.Errorf("find out whether history was rewritten: %w", err)
	}
	return b.mayBeRewritten(now), nil
}

// prefersList reports whether the log skips the history between two positions. State watches then
// list, and events watches read the history on their own. The log skips it if all are state watches
// and listing is faster, or if some are and replays make no progress.
func (b *broadcaster) prefersList(from, to position) bool {
	cost, some, all := b.listCost()
	return all && cost < estimateReplayTime(to.rev-from.rev) || some && b.stalls >= maxStalls
}

// appendGap appends a gap to the log.
func (b *broadcaster) appendGap(g *gap) {
	b.core.log.InfoContext(b.ctx, "watch skips history", "selector", b.selector, "cause", g.cause.String(),
		"from_revision", g.from.nextRevision(), "to_revision", g.to.rev)
	b.append([]*logEntry{{pos: g.to, gap: g}}, g.to)
}

// receive appends the changes of a watch to the log. Until the log reaches goal, it requests
// progress every catchUpProgressInterval; after that, only if a caller needs it.
func (b *broadcaster) receive(w *watchstream.Watch, goal position) error {
	responded := false
	for i := range w.Buffered {
		if err := b.handle(w, &w.Buffered[i], goal, &responded); err != nil {
			return err
		}
	}
	w.Buffered = nil
	tick := time.NewTicker(catchUpProgressInterval)
	defer tick.Stop()
	caughtUp := false
	checkCaughtUp := func() {
		if !caughtUp && b.position().reaches(goal) {
			caughtUp = true
			tick.Stop()
			w.Stream.PauseChecks(false)
			w.Stream.RequestCheck() // the confirmation says little about the stream
		}
	}
	checkCaughtUp()
	if !caughtUp {
		w.Stream.PauseChecks(true)
	}
	for {
		select {
		case resp, ok := <-w.Responses:
			if err := resp.EndError(ok); err != nil {
				return err
			}
			if err := b.handle(w, &resp, goal, &responded); err != nil {
				return err
			}
			checkCaughtUp()
		case <-tick.C:
			if err := w.CheckSilence(b.timeouts); err != nil {
				return err
			}
			w.RequestProgress()
		case <-w.Stream.Retired:
			return w.Stream.RetireErr
		case <-b.progressNeeded:
			if caughtUp {
				w.Stream.RequestCheck()
			} else {
				w.RequestProgress()
			}
		case <-b.ctx.Done():
			return b.ctx.Err()
		}
	}
}

// handle appends one response to the log. The first complete one of a stream resets the failure
// counters and the backoff. responded records that it has arrived.
func (b *broadcaster) handle(w *watchstream.Watch, resp *watchstream.Response, goal position, responded *bool) error {
	w.NoteResponse()
	b.lastResponse.Store(w.LastResponse.UnixNano())
	if err := b.appendResponse(resp, goal); err != nil {
		return err
	}
	if resp.Fragment {
		return nil
	}
	if b.position().reaches(goal) {
		w.Fragmenting = false
		if !resp.CompleteAt.IsZero() {
			b.setCompleteAt(resp.CompleteAt)
		}
	}
	if !*responded {
		*responded = true
		b.failures, b.timeouts, b.backoff = 0, 0, newBackoff()
		b.core.outages.succeeded(b)
	}
	return nil
}

// appendResponse appends the changes of one response to the log.
func (b *broadcaster) appendResponse(resp *watchstream.Response, goal position) (err error) {
	from := b.position()
	to := from
	var entries []*logEntry
	switch {
	case len(resp.Events) > 0:
		if entries, to, err = b.span.logEntries(resp.Events, from); err != nil {
			return err
		}
	case resp.IsProgress():
		to = from.advance(from.atRevision(resp.Header.GetRevision()))
	}
	if to != from {
		b.append(entries, to)
	}
	if !from.reaches(goal) && to.reaches(goal) {
		b.setState(StateLive, time.Now(), nil)
	}
	return nil
}

// recordFailure records the error of a stream, and determines where to open the next one.
func (b *broadcaster) recordFailure(stream *watchstream.Stream, err error) {
	if _, ok := errors.AsType[*watchstream.CompactionError](err); ok {
		return // the stream works
	}
	b.failures++
	b.core.outages.failed(b, b.selector, b.failures, err)
	b.avoidPeer = stream.Peer()
	if errors.Is(err, watchstream.ErrNoResponse) {
		b.timeouts++
	}
	// A response that broke a stream of live watches is read again on a stream for catching up.
	if watchstream.IsOversized(err) && (!stream.IsLive() || b.core.pool.OverUserWatcher()) {
		shared := b.core.pool.WasShared(stream)
		b.isolate = b.isolate || shared
		b.fragments = b.fragments || stream.Isolated || !shared
	}
	since := time.Now()
	if heard := b.lastResponse.Load(); heard > 0 {
		since = time.Unix(0, heard)
	}
	b.setState(StateStale, since, err)
}

// isStreamError reports whether the error of a watch concerns its stream, so that the other watches
// there should move. A compaction does not, nor does a permission error.
func isStreamError(err error) bool {
	_, compacted := errors.AsType[*watchstream.CompactionError](err)
	return err != nil && !compacted && permanentError(err) == nil && !errors.Is(err, watchstream.ErrMoved)
}

// catchUpProgressInterval is the interval of progress requests while a watch is catching up.
const catchUpProgressInterval = 100 * time.Millisecond

// maxStalls is how many replays in a row may deliver nothing before a state watch lists instead.
const maxStalls = 2
