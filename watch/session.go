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
	catchUpProgressInterval = 100 * time.Millisecond // between progress requests while catching up
	minSilenceTimeout       = responseTimeout        // a stream is dead after this long without a response
	maxSilenceTimeout       = 32 * time.Second       // the same while it is catching up and cannot answer
	// fragmentTimeout bounds the time for one fragment. etcd is silent while it measures the events
	// one by one.
	fragmentTimeout = 10 * time.Minute
	minBackoff      = 50 * time.Millisecond
	maxBackoff      = 5 * time.Second
)

// maxStalls is how many replays in a row may deliver nothing before a state watch lists instead.
const maxStalls = 2

// reconnectState is the state that a broadcaster's goroutine keeps between two streams.
type reconnectState struct {
	compacted *compactedError
	backoff   backoff.BackOff
	failures  int    // consecutive failures without a complete response between them
	timeouts  int    // of these, the ones with errNoResponse
	stalls    int    // consecutive replays that delivered nothing
	isolate   bool   // a response was too large on a shared stream, and may have been this broadcaster's
	fragments bool   // request fragments, because a response exceeded the maximum size
	avoidPeer string // the peer of the stream that failed last
}

// newBackoff returns a new backoff for opening a stream.
func newBackoff() backoff.BackOff {
	b := retry.Policy{BaseDelay: minBackoff, MaxDelay: maxBackoff}.Backoff()
	b.Reset()
	return b
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
		if c, ok := errors.AsType[*compactedError](err); ok && c.oldest > b.position().nextRevision() {
			b.compacted = c
			b.setState(StateSyncing, time.Now(), err)
			continue // without a pause: the history is gone, and the watch can continue from now
		}
		if errors.Is(err, errMoved) {
			continue
		}
		b.core.counters.reconnects.Add(1)
		b.core.log.DebugContext(b.ctx, "watch stream is opened again", "selector", b.selector, "error", err)
		if !sleep(b.ctx, b.backoff.NextBackOff()) {
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

// errMoved ends a server-side watch although its stream works, and opens another one: an isolated
// watch has turned out not to be the cause, or its stream was retired.
var errMoved = errors.New("moves to another stream")

// serve opens a watch on the stream of live watches and follows it until it ends.
func (b *broadcaster) serve() error {
	stream := b.core.pool.acquireLive(b.avoidPeer, min(minSilenceTimeout<<min(b.timeouts, 8), maxSilenceTimeout))
	failed, err := b.syncAndReceive(stream)
	err = withConnectionError(b.core.cli, err)
	if b.ctx.Err() == nil && !errors.Is(err, errMoved) {
		b.recordFailure(failed, err)
	}
	b.core.pool.release(stream, failed == stream && b.ctx.Err() == nil && isStreamError(err))
	return err
}

// isStreamError reports whether the error of a watch concerns its stream, so that the other watches
// there should move. A compaction does not, nor does a permission error.
func isStreamError(err error) bool {
	_, gone := errors.AsType[*compactedError](err)
	return err != nil && !gone && permanentError(err) == nil && !errors.Is(err, errMoved)
}

// recordFailure records the error of a stream, and determines where to open the next one.
func (b *broadcaster) recordFailure(stream *pooledStream, err error) {
	if _, ok := errors.AsType[*compactedError](err); ok {
		return // the stream works
	}
	b.failures++
	b.core.outages.failed(b, b.selector, b.failures, err)
	b.avoidPeer = stream.transport.peer()
	if errors.Is(err, errNoResponse) {
		b.timeouts++
	}
	// A response that broke a stream of live watches is read again on a stream for catching up.
	if isOversized(err) && (!stream.isLive() || b.core.pool.userWatcher != nil) {
		shared := b.core.pool.wasShared(stream)
		b.isolate = b.isolate || shared
		b.fragments = b.fragments || stream.isolated || !shared
	}
	since := time.Now()
	if heard := b.lastResponse.Load(); heard > 0 {
		since = time.Unix(0, heard)
	}
	b.setState(StateStale, since, err)
}

// syncAndReceive opens a watch at revision 0, "now", reads what was missed and follows the watch
// until it ends. It returns the stream on which the error happened.
func (b *broadcaster) syncAndReceive(stream *pooledStream) (failed *pooledStream, err error) {
	w, err := stream.open(b.ctx, &b.core.wg, b.key, startOptions{fragments: b.fragments}, minSilenceTimeout)
	if err != nil {
		return stream, err
	}
	defer func() {
		if w != nil {
			w.cancel()
		}
	}()
	b.lastResponse.Store(w.lastResponse.UnixNano())
	goal, err := b.reconcile(w.confirmation.header)
	if err != nil {
		return stream, err
	}
	from := b.position()
	if from.reaches(goal) {
		b.setCompleteAt(w.requestedAt)
		b.setState(StateLive, time.Now(), nil)
		return stream, b.receive(w, goal)
	}
	w.cancel()
	first := w.confirmation.header
	failed = stream
	if b.core.pool.userWatcher == nil {
		w, failed, err = b.catchUp(stream, first, goal)
	} else if w, err = b.openHistory(stream, first, goal); err == nil {
		err = b.receive(w, goal)
	}
	switch {
	case !from.reaches(b.position()):
		b.stalls, b.fragments = 0, false
	case !from.reaches(goal) && !errors.Is(err, errMoved):
		b.stalls++
		b.fragments = b.fragments || b.core.pool.mayHideRefusal(b.stalls)
	}
	if err == nil {
		return stream, b.receive(w, goal)
	}
	return failed, err
}

// reconcile compares the confirmation of a watch at revision 0 with the log. History must be read
// up to the goal that it returns.
func (b *broadcaster) reconcile(hdr *pb.ResponseHeader) (goal position, err error) {
	at := b.position()
	if at == (position{}) {
		b.history.Store(newHistoryID(hdr, 1))
		at = position{history: 1, rev: hdr.GetRevision()}
		b.append(nil, at)
		return at, nil
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
			to := at.nextHistory(hdr.GetRevision())
			b.appendGap(&gap{cause: gapRewritten, from: at, to: to, history: newHistoryID(hdr, to.history)})
			return to, nil
		}
	}
	here := at.atRevision(hdr.GetRevision()) // also if the member lags: it has the changes up to here
	switch {
	case at.reaches(here): // nothing was missed; changes that the member repeats are dropped
	case compacted != nil:
		b.appendGap(&gap{cause: gapCompacted, from: at, to: here, oldest: compacted.oldest})
	case b.prefersList(at, here):
		b.appendGap(&gap{cause: gapSkipped, from: at, to: here})
	}
	if !mismatched {
		b.history.Store(newHistoryID(hdr, at.history))
	}
	return here, nil
}

// appendGap appends a gap to the log.
func (b *broadcaster) appendGap(g *gap) {
	b.core.log.InfoContext(b.ctx, "watch lists anew", "selector", b.selector, "reason", g.cause.String(),
		"from_revision", g.from.nextRevision(), "to_revision", g.to.rev)
	b.append([]*logEntry{{pos: g.to, gap: g}}, g.to)
}

// prefersList reports whether the log skips the history between two positions. State watches then
// list, and events watches read the history on their own. The log skips it if all are state watches
// and listing is faster, or if some are and replays make no progress.
func (b *broadcaster) prefersList(from, to position) bool {
	cost, some, all := b.listCost()
	return all && cost < estimateReplayTime(to.rev-from.rev) || some && b.stalls >= maxStalls
}

// mayBeRewritten reports whether a response may come from another history than the log.
func (b *broadcaster) mayBeRewritten(hdr *pb.ResponseHeader) bool {
	return hdr.GetRevision() < b.position().rev || b.history.Load().mismatched(hdr)
}

// confirmRewritten reports whether the cluster has another history than the log, using a
// linearizable read. The response of a lagging member alone does not tell.
func (b *broadcaster) confirmRewritten() (bool, error) {
	now, err := b.core.readHeader(b.ctx, b.selector, b.key.from)
	if err != nil {
		return false, fmt.Errorf("find out whether history was rewritten: %w", err)
	}
	return b.mayBeRewritten(now), nil
}

// receive appends the changes of a watch to the log. Until the log reaches goal, it requests
// progress every catchUpProgressInterval; after that, only if a caller needs it.
func (b *broadcaster) receive(w *confirmedWatch, goal position) error {
	responded := false
	for i := range w.buffered {
		if err := b.handle(w, &w.buffered[i], goal, &responded); err != nil {
			return err
		}
	}
	w.buffered = nil
	tick := time.NewTicker(catchUpProgressInterval)
	defer tick.Stop()
	caughtUp := false
	checkCaughtUp := func() {
		if !caughtUp && b.position().reaches(goal) {
			caughtUp = true
			tick.Stop()
			w.stream.liveness.paused.Store(false)
			w.stream.requestCheck() // the confirmation says little about the stream
		}
	}
	checkCaughtUp()
	if !caughtUp {
		w.stream.liveness.paused.Store(true)
	}
	for {
		select {
		case resp, ok := <-w.responses:
			if err := resp.endError(ok); err != nil {
				return err
			}
			if err := b.handle(w, &resp, goal, &responded); err != nil {
				return err
			}
			checkCaughtUp()
		case <-tick.C:
			if err := w.checkSilence(b.timeouts); err != nil {
				return err
			}
			w.requestProgress()
		case <-w.stream.retired:
			return w.stream.retireErr
		case <-b.progressNeeded:
			if caughtUp {
				w.stream.requestCheck()
			} else {
				w.requestProgress()
			}
		case <-b.ctx.Done():
			return b.ctx.Err()
		}
	}
}

// handle appends one response to the log. The first complete one of a stream resets the failure
// counters and the backoff. responded records that it has arrived.
func (b *broadcaster) handle(w *confirmedWatch, resp *response, goal position, responded *bool) error {
	w.noteResponse()
	b.lastResponse.Store(w.lastResponse.UnixNano())
	if err := b.appendResponse(resp, goal); err != nil {
		return err
	}
	if resp.fragment {
		return nil
	}
	if b.position().reaches(goal) {
		w.fragmenting = false
		if !resp.completeAt.IsZero() {
			b.setCompleteAt(resp.completeAt)
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
func (b *broadcaster) appendResponse(resp *response, goal position) (err error) {
	at := b.position()
	to := at
	var entries []*logEntry
	switch {
	case len(resp.events) > 0:
		if entries, to, err = b.span.logEntries(resp.events, at); err != nil {
			return err
		}
	case resp.isProgress():
		to = at.advance(at.atRevision(resp.header.GetRevision()))
	}
	if to != at {
		b.append(entries, to)
	}
	if !at.reaches(goal) && to.reaches(goal) {
		b.setState(StateLive, time.Now(), nil)
	}
	return nil
}
