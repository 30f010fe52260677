package watch

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// changeoverTimeout bounds how long a watch that has caught up may take to move to the stream of
// live watches, because events that arrive there meanwhile are kept in memory. changeoverPause is
// the pause before the next attempt.
const (
	changeoverTimeout = time.Second
	changeoverPause   = 5 * time.Second
)

// openHistory opens a watch that delivers the history after the log. first is the header of the
// confirmation from which goal was determined.
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

// catchUp reads history up to goal. It uses a stream for catching up, because etcd does not answer
// progress requests on a stream while one of its watches is catching up. It then opens a watch on
// live, which continues without a gap. If err is not nil, at is the stream on which it happened.
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

// changeover moves a hub from a stream for catching up to the stream of live watches.
type changeover struct {
	*hub

	live   *seat
	next   *stream // the watch on live; nil before it is opened
	until  position
	opened time.Time
	paused time.Time // no attempt before this time
}

// run appends the history to the log until the watch on the stream of live watches can continue
// from there.
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
				return errMoves // to a new stream of live watches
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
		return errMoves // the next attempt determines what is wrong with the stream
	}
	hdr := next.first.header
	if c.history.Load().mismatched(hdr) {
		next.stop()
		return errMoves // the next attempt determines whether the history was rewritten
	}
	c.next, c.opened, c.until = next, time.Now(), c.hub.at().at(hdr.GetRevision())
	history.ask()
	return nil
}

// giveUpLate abandons an attempt that has reached changeoverTimeout.
func (c *changeover) giveUpLate() {
	if c.next != nil && time.Since(c.opened) >= changeoverTimeout {
		c.abandon()
		c.paused = time.Now().Add(changeoverPause)
	}
}

// abandon cancels the watch on the stream of live watches, if there is one.
func (c *changeover) abandon() {
	if c.next != nil {
		c.next.stop()
		c.next = nil
	}
}
