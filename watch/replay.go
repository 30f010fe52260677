package watch

import (
	"errors"
	"time"
)

// stall is how long a consumer may hold up a replay. Meanwhile its stream waits, and so do those who share it; a Watcher of
// client/v3's would keep everything that arrives.
const stall = 200 * time.Millisecond

// errStalled is a replay that was given up because the consumer is slow. It goes on where it was.
var errStalled = errors.New("the consumer is slow")

// errNoProgress is a replay for a state watch that was given up because it delivers nothing.
var errNoProgress = errors.New("the replay makes no progress")

// replay delivers the history up to a position, over a server-side watch of its own, and more where that comes along. It
// returns a *compaction where the history is gone.
func (s *sub) replay(goal position) error {
	s.core.counts.replays.Add(1)
	r := replayer{sub: s, goal: goal}
	waits := reopening()
	stalls := 0
	for !s.at.reaches(goal) {
		was := s.at
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
		if s.at != was {
			waits, r.silences, stalls, r.fragments = reopening(), 0, 0, false
		}
		if errors.Is(err, errStalled) || errors.Is(err, errMoves) {
			continue
		}
		if s.at == was {
			stalls++
		}
		if s.index != nil && stalls >= maxStalls {
			return errNoProgress
		}
		s.core.log.DebugContext(s.ctx, "replay is opened again", "selector", s.req.sel.String(), "error", err)
		if !sleep(s.ctx, waits.NextBackOff()) {
			return s.ctx.Err()
		}
	}
	return nil
}

// replayer is what a replay keeps between two streams.
type replayer struct {
	*sub

	goal               position
	avoid              string
	silences           int
	suspect, fragments bool // as of a hub
}

// once replays over one stream.
func (r *replayer) once() error {
	seat, err := r.core.pool.acquire(r.ctx, r.suspect, r.avoid)
	if err != nil {
		return err
	}
	err = r.read(seat)
	broken := spoils(err) && !fromConsumer(err) && !errors.Is(err, errStalled) && r.over() == nil
	if broken {
		r.avoid = seat.src.peer()
		if errors.Is(err, errNoAnswer) {
			r.silences++
		}
		if oversized(err) && r.core.pool.shared(seat) {
			r.suspect = true
		}
		if oversized(err) && (seat.alone || !r.core.pool.shared(seat)) {
			r.fragments = true
		}
	}
	r.core.pool.release(seat, broken)
	return err
}

// read opens the watch and delivers what it has until the goal is reached.
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
	for !r.at.reaches(r.goal) {
		select {
		case a, ok := <-st.ch:
			if err := a.failure(ok); err != nil {
				return err
			}
			st.note()
			if a.partial {
				continue
			}
			if err := r.deliver(st, &a); err != nil {
				return err
			}
			if r.suspect = false; seat.alone && !r.at.reaches(r.goal) {
				return errMoves
			}
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
	return nil
}

// deliver hands one answer to the consumer. The watch is ended where that takes long.
func (r *replayer) deliver(st *stream, a *answer) error {
	if a.progress() {
		r.move(r.at.at(a.header.GetRevision()))
		return nil
	}
	if len(a.events) == 0 {
		return nil
	}
	slow := time.AfterFunc(stall, st.stop)
	nodes, to, err := r.req.span.nodes(a.events, r.at)
	if err == nil {
		err = r.giveAll(nodes)
	}
	if err == nil {
		r.move(to)
	}
	if !slow.Stop() && err == nil && !r.at.reaches(r.goal) {
		return errStalled
	}
	return err
}

// giveAll hands the changes of several revisions to the consumer, folded if it likes.
func (r *replayer) giveAll(nodes []*node) error {
	if r.req.coalesce && len(nodes) > 1 {
		f := newFold()
		for _, n := range nodes {
			f.add(n.at, n.events)
		}
		return r.giveFold(f)
	}
	for _, n := range nodes {
		if err := r.over(); err != nil {
			return err
		}
		if err := r.give(Batch{Kind: Live, Revision: n.at.rev, Events: n.events}); err != nil {
			return err
		}
	}
	return nil
}
