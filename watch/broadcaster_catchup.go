package watch

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdkit/etcdkit/internal/watchstream"
)

// changeoverTimeout bounds how long a watch that has caught up may take to move to the stream of
// live watches, because events that arrive there meanwhile are kept in memory.
// changeoverRetryInterval is the pause before the next attempt.
const (
	changeoverTimeout       = time.Second
	changeoverRetryInterval = 5 * time.Second
)

// openHistory opens a watch that delivers the history after the log. first is the header of the
// confirmation from which goal was determined.
func (b *broadcaster) openHistory(stream *watchstream.Stream, first *pb.ResponseHeader, goal position) (*watchstream.Watch, error) {
	from := b.position()
	w, err := stream.Open(b.ctx, &b.core.wg, b.key.Spec, watchstream.Start{Rev: from.nextRevision(), Fragments: b.fragments})
	if err != nil {
		return nil, err
	}
	hdr := w.Header()
	behind := hdr.GetRevision() < from.rev || stream.IsLive() && hdr.GetRevision() < goal.rev
	if behind || newHistoryID(first, 0).mismatched(hdr) {
		w.Cancel()
		return nil, errHistoryMismatch
	}
	b.setState(StateSyncing, time.Now(), nil)
	return w, nil
}

// catchUp reads history up to goal. It uses a stream for catching up, because etcd does not answer
// progress requests on a stream while one of its watches is catching up. It then opens a watch on
// live, which continues without a gap. If err is not nil, failed is the stream on which it
// happened.
func (b *broadcaster) catchUp(live *watchstream.Stream, first *pb.ResponseHeader, goal position) (w *watchstream.Watch, failed *watchstream.Stream, err error) {
	p := b.core.pool
	stream, err := p.AcquireCatchUp(b.ctx, b.isolate, b.avoidPeer)
	if err != nil {
		return nil, live, err
	}
	c := changeover{broadcaster: b, live: live}
	defer c.abandon()
	history, err := b.openHistory(stream, first, goal)
	if err == nil {
		err = c.run(history, goal)
		history.Cancel()
	}
	p.Release(stream, b.ctx.Err() == nil && isStreamError(err))
	if err != nil {
		return nil, stream, err
	}
	w, c.nextWatch = c.nextWatch, nil
	return w, stream, nil
}

// changeover moves a broadcaster from a stream for catching up to the stream of live watches.
type changeover struct {
	*broadcaster

	live       *watchstream.Stream
	nextWatch  *watchstream.Watch // the watch on live; nil before it is opened
	handoverAt position
	openedAt   time.Time
	notBefore  time.Time // no attempt before this time
}

// run appends the history to the log until the watch on the stream of live watches can continue
// from there.
func (c *changeover) run(history *watchstream.Watch, goal position) error {
	responded := false
	tick := time.NewTicker(catchUpProgressInterval)
	defer tick.Stop()
	for {
		var live <-chan watchstream.Response
		if c.nextWatch != nil {
			live = c.nextWatch.Responses
		}
		select {
		case resp, ok := <-history.Responses:
			if err := resp.EndError(ok); err != nil {
				return err
			}
			if err := c.handle(history, &resp, goal, &responded); err != nil {
				return err
			}
			if history.Stream.Isolated && responded {
				c.isolate = false
				return watchstream.ErrMoved
			}
		case resp, ok := <-live:
			if err := resp.EndError(ok); err != nil {
				return watchstream.ErrMoved // to a new stream of live watches
			}
			c.nextWatch.Buffered = append(c.nextWatch.Buffered, resp)
		case <-tick.C:
			if err := history.CheckSilence(c.timeouts); err != nil {
				return err
			}
			history.RequestProgress()
			c.abandonIfLate()
		case <-history.Stream.Retired:
			return history.Stream.RetireErr
		case <-c.live.Retired:
			return watchstream.ErrMoved
		case <-c.progressNeeded:
			history.RequestProgress()
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
		if c.nextWatch == nil && c.position().reaches(goal) && !time.Now().Before(c.notBefore) {
			if err := c.start(history); err != nil {
				return err
			}
		}
		if c.nextWatch != nil && c.position().reaches(c.handoverAt) {
			return nil
		}
	}
}

// start opens the watch on the stream of live watches.
func (c *changeover) start(history *watchstream.Watch) error {
	next, err := c.live.Open(c.ctx, &c.core.wg, c.key.Spec, watchstream.Start{Fragments: c.fragments})
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return err
		}
		return watchstream.ErrMoved // the next attempt determines what is wrong with the stream
	}
	hdr := next.Header()
	if c.history.Load().mismatched(hdr) {
		next.Cancel()
		return watchstream.ErrMoved // the next attempt determines whether the history was rewritten
	}
	c.nextWatch, c.openedAt, c.handoverAt = next, time.Now(), c.broadcaster.position().atRevision(hdr.GetRevision())
	history.RequestProgress()
	return nil
}

// abandonIfLate abandons an attempt that has reached changeoverTimeout.
func (c *changeover) abandonIfLate() {
	if c.nextWatch != nil && time.Since(c.openedAt) >= changeoverTimeout {
		c.abandon()
		c.notBefore = time.Now().Add(changeoverRetryInterval)
	}
}

// abandon cancels the watch on the stream of live watches, if there is one.
func (c *changeover) abandon() {
	if c.nextWatch != nil {
		c.nextWatch.Cancel()
		c.nextWatch = nil
	}
}
