package watch

import (
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/watchstream"
)

// slowConsumerTimeout is how long a consumer may take for one batch before the stream of its replay
// is closed, so that etcd does not have to keep what follows. A Watcher of the user buffers
// everything that arrives. Over one, slowUserConsumerTimeout applies, to a whole response.
const (
	slowConsumerTimeout     = 5 * time.Second
	slowUserConsumerTimeout = 200 * time.Millisecond
)

// errSlowConsumer ends a stream of a replay because its consumer is slow. The replay continues
// where it was.
var errSlowConsumer = errors.New("the consumer is slow")

// errLargeResponse ends a stream of a replay because a response was larger than expected. The
// replay requests it again, with its size or in fragments.
var errLargeResponse = errors.New("the response is larger than expected")

// errReplayStalled ends a replay for a state watch because it delivers nothing.
var errReplayStalled = errors.New("the replay makes no progress")

// replay delivers the history up to a position over a server-side watch of its own. It may deliver
// more. It returns a *watchstream.CompactionError if the history was compacted.
func (s *subscriber) replay(goal position) error {
	s.core.counters.replays.Add(1)
	r := replayer{subscriber: s, goal: goal, backoff: newBackoff()}
	defer s.core.outages.ended(s)
	for !s.pos.reaches(goal) {
		err := r.replayOnce()
		if err == nil || fromConsumer(err) || s.canceled() != nil {
			return err
		}
		if c, ok := errors.AsType[*watchstream.CompactionError](err); ok && c.Oldest > s.pos.nextRevision() {
			return err
		}
		if permanent := permanentError(err); permanent != nil {
			return permanent
		}
		if !s.broadcaster.isCurrentHistory(s.pos) {
			return errHistoryChanged
		}
		if errors.Is(err, errSlowConsumer) || errors.Is(err, errLargeResponse) {
			continue
		}
		if s.index != nil && r.stalls >= maxStalls {
			return errReplayStalled
		}
		s.core.outages.failed(s, s.request.selector.String(), r.stalls, err)
		s.core.log.DebugContext(s.ctx, "replay is reopened", "selector", s.request.selector.String(), "error", err)
		if retry.Sleep(s.ctx, r.backoff.NextBackOff()) != nil {
			return s.ctx.Err()
		}
	}
	return nil
}

// replayer is the state of a replay, which may use several streams in turn.
type replayer struct {
	*subscriber

	goal        position
	reservation *reservation // for the current stream

	backoff      backoff.BackOff
	avoidPeer    string // the peer of the stream that failed last
	timeouts     int    // streams without a response since the replay last advanced
	stalls       int    // consecutive streams that delivered nothing
	fragments    bool   // request fragments, because a response exceeded the maximum size
	reserveBytes int64  // of the next reservation, 0 if unknown
}

// replayOnce replays over one stream and determines how to open the next one.
func (r *replayer) replayOnce() (err error) {
	if r.reservation, err = r.core.replayBudget.reserve(r.ctx, r.reserveBytes); err != nil {
		return err
	}
	defer r.reservation.release()
	limit := r.reservation.maxResponseBytes()
	if r.fragments {
		limit = 0
	}
	stream := r.core.pool.AcquireReplay(limit, r.avoidPeer)
	before := r.pos
	err = withConnectionError(r.core.cli, r.read(stream))
	r.core.pool.Release(stream, err != nil)
	if r.pos != before {
		r.backoff, r.timeouts, r.stalls, r.fragments, r.reserveBytes = newBackoff(), 0, 0, false, 0
		r.core.outages.succeeded(r.subscriber)
	}
	if !isStreamError(err) || fromConsumer(err) || errors.Is(err, errSlowConsumer) || r.canceled() != nil {
		return err
	}
	if watchstream.IsOversized(err) {
		size, maxSize := watchstream.ParseOversized(err)
		if size *= copiesPerResponse; maxSize == limit && limit > 0 && size <= maxReplayMemory {
			r.reserveBytes = size
			return errLargeResponse
		}
		if r.reserveBytes = fragmentReservation; !r.fragments {
			r.fragments = true
			return errLargeResponse
		}
	}
	r.avoidPeer = stream.Peer()
	if errors.Is(err, watchstream.ErrNoResponse) {
		r.timeouts++
	}
	if r.pos == before {
		r.stalls++
		r.fragments = r.fragments || r.core.mayHideRefusal(r.stalls)
	}
	return err
}

// read opens the watch and delivers its responses until the goal is reached.
func (r *replayer) read(stream *watchstream.Stream) error {
	w, err := stream.Open(r.ctx, &r.wg, r.request.key().Spec, watchstream.Start{Rev: r.pos.nextRevision(), Fragments: r.fragments})
	if err != nil {
		return err
	}
	defer w.Cancel()
	if err := r.broadcaster.history.Load().check(w.Header(), r.pos.history); err != nil {
		return err
	}
	ticker := time.NewTicker(catchUpProgressInterval)
	defer ticker.Stop()
	w.AllowReceive()
	for {
		select {
		case resp, ok := <-w.Responses:
			if err := resp.EndError(ok); err != nil {
				return err
			}
			if err := r.handle(w, &resp); err != nil {
				return err
			}
			if r.pos.reaches(r.goal) {
				return nil
			}
			w.NoteResponse() // the time that the consumer has taken is not silence of etcd
			w.AllowReceive()
		case <-ticker.C:
			if err := w.CheckSilence(r.timeouts); err != nil {
				return err
			}
			if !r.broadcaster.isCurrentHistory(r.pos) {
				return errHistoryChanged
			}
			w.RequestProgress()
		case <-w.Context().Done():
			return w.Context().Err()
		}
	}
}

// handle delivers one response to the consumer. If the consumer is slow, handle ends the watch
// and returns errSlowConsumer.
func (r *replayer) handle(w *watchstream.Watch, resp *watchstream.Response) error {
	if resp.IsProgress() {
		r.advance(r.pos.atRevision(resp.Header.GetRevision()))
		return nil
	}
	if len(resp.Events) == 0 {
		return nil
	}
	entries, to, err := r.request.span.logEntries(resp.Events, r.pos)
	if err != nil {
		return err
	}
	limit := slowConsumerTimeout
	if !w.Stream.ForReplay {
		limit = slowUserConsumerTimeout
	}
	deliver := func(entry *logEntry) error {
		return r.deliver(Batch{Kind: Live, Revision: entry.pos.rev, Events: entry.events})
	}
	if r.request.coalesce && len(entries) > 1 {
		coalesced := newCoalescer()
		for _, entry := range entries {
			coalesced.add(entry.pos, entry.events)
		}
		entries = []*logEntry{{pos: to}} // represents all of them
		deliver = func(*logEntry) error { return r.deliverCoalesced(coalesced) }
	}
	timer := time.AfterFunc(limit, w.Cancel)
	defer timer.Stop()
	stalled := false
	r.reservation.setEntries(entries, w.Cancel)
	for {
		entry, ok := r.reservation.next()
		if !ok {
			return errSlowConsumer
		}
		if entry == nil {
			break
		}
		if err := r.canceled(); err != nil {
			return err
		}
		if err := deliver(entry); err != nil {
			return err
		}
		if w.Stream.ForReplay {
			stalled = !timer.Reset(limit) || stalled
		}
	}
	r.advance(to)
	if stalled = !timer.Stop() || stalled; stalled && !r.pos.reaches(r.goal) {
		return errSlowConsumer
	}
	return nil
}
