package watch

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// changeoverTimeout is how long a watch that has caught up may take to join the stream of live watches: the events that
// come there meanwhile are kept in memory. changeoverPause is the pause before it tries again.
const (
	changeoverTimeout = time.Second
	changeoverPause   = 5 * time.Second
)

// openHistory opens a watch that delivers the history after the log. first is the header of the confirmation that the goal
// is of.
func (h *hub) openHistory(s *seat, first *pb.ResponseHeader, goal position) (*stream, error) {
	from := h.at()
	st, err := s.open(h.ctx, &h.core.wg, h.key, start{rev: from.next(), fragments: h.fragments}, patienceMin)
	if err != nil {
		return nil, err
	}
	hdr := st.first.header
	behind := hdr.GetRevision() < from.rev || s.isLive() && hdr.GetRevision() < goal.rev
	if behind || newHistoryID(first, 0).mismatched(hdr) {
		st.stop()
		return nil, errOtherMember
	}
	h.become(StateSyncing, time.Now(), nil)
	return st, nil
}

// catchUp reads the history up to a goal over a stream for that purpose, since a watch that is catching up keeps etcd from
// answering progress requests for all watches of its stream. Then it opens a watch on live, where it goes on without a gap.
// If err is not nil, at is the stream that it happened on.
func (h *hub) catchUp(live *seat, first *pb.ResponseHeader, goal position) (st *stream, at *seat, err error) {
	p := h.core.pool
	s, err := p.acquire(h.ctx, h.suspect, h.avoid)
	if err != nil {
		return nil, live, err
	}
	c := changeover{hub: h, live: live}
	defer c.abandon()
	history, err := h.openHistory(s, first, goal)
	if err == nil {
		err = c.run(history, goal)
		history.stop()
	}
	p.release(s, h.ctx.Err() == nil && spoils(err))
	if err != nil {
		return nil, s, err
	}
	st, c.next = c.next, nil
	return st, s, nil
}

// changeover is the move of a hub from a stream for reading history to that of live watches.
type changeover struct {
	*hub

	live   *seat
	next   *stream // on live; nil before it is opened
	until  position
	opened time.Time
	paused time.Time // no attempt before
}

// run puts the history into the log until the watch on the stream of live watches goes on from there.
func (c *changeover) run(history *stream, goal position) error {
	answered := false
	tick := time.NewTicker(askBehind)
	defer tick.Stop()
	for {
		var live <-chan answer
		if c.next != nil {
			live = c.next.ch
		}
		select {
		case a, ok := <-history.ch:
			if err := a.failure(ok); err != nil {
				return err
			}
			if err := c.receive(history, &a, goal, &answered); err != nil {
				return err
			}
			if history.seat.alone && answered {
				c.suspect = false
				return errMoves
			}
		case a, ok := <-live:
			if err := a.failure(ok); err != nil {
				return errMoves // to a stream that is opened anew
			}
			c.next.early = append(c.next.early, a)
		case <-tick.C:
			if err := history.dead(c.silences); err != nil {
				return err
			}
			history.ask()
			c.giveUpLate()
		case <-history.seat.gone:
			return history.seat.cause
		case <-c.live.gone:
			return errMoves
		case <-c.asked:
			history.ask()
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
		if c.next == nil && c.at().reaches(goal) && !time.Now().Before(c.paused) {
			if err := c.begin(history); err != nil {
				return err
			}
		}
		if c.next != nil && c.at().reaches(c.until) {
			return nil
		}
	}
}

// begin opens the watch on the stream of live watches.
func (c *changeover) begin(history *stream) error {
	next, err := c.live.open(c.ctx, &c.core.wg, c.key, start{fragments: c.fragments}, patienceMin)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return err
		}
		return errMoves // the next attempt finds out what is wrong with the stream
	}
	hdr := next.first.header
	if c.history.Load().mismatched(hdr) {
		next.stop()
		return errMoves // the next attempt finds out what has become of the history
	}
	c.next, c.opened, c.until = next, time.Now(), c.hub.at().at(hdr.GetRevision())
	history.ask()
	return nil
}

// giveUpLate ends an attempt that takes too long.
func (c *changeover) giveUpLate() {
	if c.next != nil && time.Since(c.opened) >= changeoverTimeout {
		c.abandon()
		c.paused = time.Now().Add(changeoverPause)
	}
}

// abandon ends the watch on the stream of live watches, if there is one.
func (c *changeover) abandon() {
	if c.next != nil {
		c.next.stop()
		c.next = nil
	}
}
