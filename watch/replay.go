package watch

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// stallTimeout is how long a consumer may take for one batch before the stream of its replay is
// closed, so that etcd does not have to keep what follows. A Watcher of the user buffers everything
// that arrives. Over one, givenStallTimeout applies, to a whole response.
const (
	stallTimeout      = 5 * time.Second
	givenStallTimeout = 200 * time.Millisecond
)

// errStalled ends a stream of a replay because its consumer is slow. The replay continues where it
// was.
var errStalled = errors.New("the consumer is slow")

// errLarger ends a stream of a replay because a response was larger than expected. The replay
// requests it again, with its size or in fragments.
var errLarger = errors.New("the response is larger than expected")

// errNoProgress ends a replay for a state watch because it delivers nothing.
var errNoProgress = errors.New("the replay makes no progress")

// replay delivers the history up to a position over a server-side watch of its own. It may deliver
// more. It returns a *compaction if the history was compacted.
func (s *sub) replay(goal position) error {
	s.core.counts.replays.Add(1)
	r := replayer{sub: s, goal: goal, waits: reopening()}
	defer s.core.outages.ended(s)
	for !s.at.reaches(goal) {
		err := r.once()
		if err == nil || fromConsumer(err) || s.over() != nil {
			return err
		}
		if c, ok := errors.AsType[*compaction](err); ok && c.oldest > s.at.next() {
			return err
		}
		if end := final(err); end != nil {
			return end
		}
		if !s.hub.follows(s.at) {
			return errOtherHistory
		}
		if errors.Is(err, errStalled) || errors.Is(err, errLarger) {
			continue
		}
		if s.index != nil && r.stalls >= maxStalls {
			return errNoProgress
		}
		s.core.outages.failed(s, s.req.sel.String(), r.stalls, err)
		s.core.log.DebugContext(s.ctx, "replay is opened again", "selector", s.req.sel.String(), "error", err)
		if !sleep(s.ctx, r.waits.NextBackOff()) {
			return s.ctx.Err()
		}
	}
	return nil
}

// replayer is the state of a replay, which may use several streams in turn.
type replayer struct {
	*sub

	goal  position
	share *reservation // for the current stream

	waits     backoff.BackOff
	avoid     string // the peer of the stream that failed last
	silences  int    // streams without an answer since the replay last advanced
	stalls    int    // consecutive streams that delivered nothing
	fragments bool   // request fragments, because a response exceeded the maximum size
	size      int64  // of the next reservation, 0 if unknown
}

// once replays over one stream and determines how to open the next one.
func (r *replayer) once() (err error) {
	if r.share, err = r.core.replays.reserve(r.ctx, r.size); err != nil {
		return err
	}
	defer r.share.release()
	limit := r.share.limit()
	if r.fragments {
		limit = 0
	}
	seat := r.core.pool.forReplay(limit, r.avoid)
	was := r.at
	err = explained(r.core.cli, r.read(seat))
	r.core.pool.release(seat, err != nil)
	if r.at != was {
		r.waits, r.silences, r.stalls, r.fragments, r.size = reopening(), 0, 0, false, 0
		r.core.outages.succeeded(r.sub)
	}
	if !spoils(err) || fromConsumer(err) || errors.Is(err, errStalled) || r.over() != nil {
		return err
	}
	if oversized(err) {
		size, most := refusedSize(err)
		if size *= copiesHeld; most == limit && limit > 0 && size <= replayMemory {
			r.size = size
			return errLarger
		}
		if r.size = fragmentReserve; !r.fragments {
			r.fragments = true
			return errLarger
		}
	}
	r.avoid = seat.src.peer()
	if errors.Is(err, errNoAnswer) {
		r.silences++
	}
	if r.at == was {
		r.stalls++
		r.fragments = r.fragments || r.core.pool.hidesRefusal(r.stalls)
	}
	return err
}

// refusedSize returns the size of a response that exceeded the maximum, and the maximum. They are 0
// if unknown.
func refusedSize(err error) (size int64, limit int) {
	_, sizes, _ := strings.Cut(retry.Message(err), largerThanMax)
	_, _ = fmt.Sscanf(sizes, " (%d vs. %d)", &size, &limit)
	return size, limit
}

// read opens the watch and delivers its responses until the goal is reached.
func (r *replayer) read(seat *seat) error {
	st, err := seat.open(r.ctx, &r.wg, r.req.key(), start{rev: r.at.next(), fragments: r.fragments}, patienceMin)
	if err != nil {
		return err
	}
	defer st.stop()
	if err := r.hub.history.Load().check(st.first.header, r.at.history); err != nil {
		return err
	}
	ask := time.NewTicker(askBehind)
	defer ask.Stop()
	st.more()
	for {
		select {
		case a, ok := <-st.ch:
			if err := a.failure(ok); err != nil {
				return err
			}
			if err := r.deliver(st, &a); err != nil {
				return err
			}
			if r.at.reaches(r.goal) {
				return nil
			}
			st.note() // the time that the consumer has taken is not silence of etcd
			st.more()
		case <-ask.C:
			if err := st.dead(r.silences); err != nil {
				return err
			}
			if !r.hub.follows(r.at) {
				return errOtherHistory
			}
			st.ask()
		case <-st.ctx.Done():
			return st.ctx.Err()
		}
	}
}

// deliver delivers one response to the consumer. If the consumer is slow, deliver ends the watch
// and returns errStalled.
func (r *replayer) deliver(st *stream, a *answer) error {
	if a.progress() {
		r.move(r.at.at(a.header.GetRevision()))
		return nil
	}
	if len(a.events) == 0 {
		return nil
	}
	entries, to, err := r.req.span.nodes(a.events, r.at)
	if err != nil {
		return err
	}
	limit := stallTimeout
	if !st.seat.own {
		limit = givenStallTimeout
	}
	give := func(n *node) error { return r.give(Batch{Kind: Live, Revision: n.at.rev, Events: n.events}) }
	if r.req.coalesce && len(entries) > 1 {
		f := newFold()
		for _, n := range entries {
			f.add(n.at, n.events)
		}
		entries = []*node{{at: to}} // represents all of them
		give = func(*node) error { return r.giveFold(f) }
	}
	timer := time.AfterFunc(limit, st.stop)
	defer timer.Stop()
	stalled := false
	r.share.hold(entries, st.stop)
	for {
		n, ok := r.share.next()
		if !ok {
			return errStalled
		}
		if n == nil {
			break
		}
		if err := r.over(); err != nil {
			return err
		}
		if err := give(n); err != nil {
			return err
		}
		if st.seat.own {
			stalled = !timer.Reset(limit) || stalled
		}
	}
	r.move(to)
	if stalled = !timer.Stop() || stalled; stalled && !r.at.reaches(r.goal) {
		return errStalled
	}
	return nil
}
