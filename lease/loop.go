package lease

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// loop renews. It is one goroutine's own; what reads the stream is the other goroutine.
type loop struct {
	*renewer

	events chan event
	link   *link         // nil: no stream, and none on its way
	queue  []outstanding // sent and not answered, in the order in which etcd will answer
	heard  time.Time     // when the stream last gave a sign of life
	more   bool          // are due, and wait until there is room in the queue
	next   time.Time     // when the timer will fire

	failed  int       // streams in a row
	avoid   string    // the peer of the last one of them
	suspect *Session  // whose renewal it failed to answer
	login   bool      // the last failure was a token that was refused
	rest    time.Time // no new stream before
	waits   backoff.BackOff
}

// outstanding is a renewal that awaits its answer.
type outstanding struct {
	*Session
	*turn
}

func newLoop(r *renewer) *loop {
	l := &loop{renewer: r, events: make(chan event)}
	l.waits = retry.Policy{BaseDelay: 100 * time.Millisecond, MaxDelay: 2 * time.Second}.Backoff()
	return l
}

// run renews until there is no session left.
func (l *loop) run() {
	timer := time.AfterFunc(farOff, l.nudge)
	defer timer.Stop()
	for {
		select {
		case <-l.wake:
		case e := <-l.events:
			if !l.take(e) {
				continue // what is due then is due after the timer: it may stay
			}
		}
		next, ok := l.look(time.Now())
		if !ok {
			l.unlink()
			return
		}
		l.next = next
		timer.Reset(time.Until(next))
	}
}

// look does what there is to do and returns when to look again, false when there is nothing to renew any more.
func (l *loop) look(now time.Time) (next time.Time, ok bool) {
	p, ok := l.plan(now)
	if !ok {
		return now, false
	}
	if l.link != nil && !now.Before(p.silence) {
		l.c.engine.Overdue(l.link.peer)
		l.fail(l.silenceError(now), now)
		if p, ok = l.plan(now); !ok {
			return now, false
		}
	}
	switch {
	case len(p.due) == 0:
	case l.link == nil && now.Before(l.rest):
		return earlier(p.next, l.rest), true
	case l.link == nil:
		l.open(now)
	case l.link.stream != nil:
		l.send(p.due)
	}
	p, ok = l.plan(now) // with what has been sent
	return earlier(p.next, p.silence), ok
}

// silenceError says that the stream has been silent for too long, and why the connection is not there, if it is not.
func (l *loop) silenceError(now time.Time) error {
	err := fmt.Errorf("%w: %s has not answered for %v", errs.Unavailable, l.at(), now.Sub(l.heard).Round(time.Millisecond))
	if cause := wire.Explain(l.c.cli); cause != nil {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// at is the member that the stream leads to.
func (l *loop) at() string {
	if l.link == nil || l.link.peer == "" {
		return "etcd"
	}
	return l.link.peer
}

// triesMost bounds the search for another member.
const triesMost = 5

// open asks for a stream.
func (l *loop) open(now time.Time) {
	k := &link{begun: now}
	k.ctx, k.cancel = context.WithCancel(l.ctx)
	l.link, l.heard = k, now
	l.streams.Add(1)
	svc, avoid, tries := l.c.service, l.avoid, triesMost
	if n := len(l.c.cli.Endpoints()); n > 0 { // a stub may lead anywhere
		tries = min(tries, n)
	}
	l.wg.Go(func() {
		defer k.cancel()
		k.read(svc, avoid, tries, l.events)
	})
}

// unansweredMost is how many renewals are sent ahead of their answers. It is far below what gRPC's windows hold in either
// direction: a loop that waits for room to send would not take the answers that make room.
const unansweredMost = 1024

// send sends renewals, the most urgent first, since a server works on one after the other. The session that the last
// stream broke over comes last, so that it does not hold up the others again.
func (l *loop) send(due []outstanding) {
	slices.SortFunc(due, func(a, b outstanding) int {
		if sa, sb := a.Session == l.suspect, b.Session == l.suspect; sa != sb {
			if sa {
				return 1
			}
			return -1
		}
		return a.due.Compare(b.due)
	})
	room := min(unansweredMost-len(l.queue), len(due))
	l.more = len(due) > room
	if due = due[:room]; room == 0 {
		return
	}
	shortest := shortestTTL(due)
	stuck := time.AfterFunc(shortest/patience, l.link.cancel) // a stream takes many small messages before it blocks, but it may
	defer stuck.Stop()
	for _, o := range due {
		o.sent = time.Now()
		l.queue = append(l.queue, o)
		if l.link.stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(o.id)}) != nil {
			return // the reader gets to know why, or the silence tells
		}
	}
}

// shortestTTL returns the shortest TTL of some sessions, of which there must be one.
func shortestTTL(of []outstanding) time.Duration {
	return slices.MinFunc(of, func(a, b outstanding) int { return cmp.Compare(a.turn.ttl, b.turn.ttl) }).turn.ttl
}

// take takes note of an event, and reports whether there may be something to do now.
func (l *loop) take(e event) bool {
	now := time.Now()
	switch {
	case e.link != l.link:
		return false // of a stream that was given up
	case e.err != nil:
		l.fail(e.err, now)
	case e.stream != nil:
		l.link.stream, l.link.peer, l.heard = e.stream, e.peer, now
	default:
		l.heard = now
		return l.answer(e.answer)
	}
	return true
}

// answer counts one renewal. It reports whether there is something to do before what was planned.
func (l *loop) answer(a *pb.LeaseKeepAliveResponse) bool {
	i := slices.IndexFunc(l.queue, func(o outstanding) bool { return o.id == clientv3.LeaseID(a.GetID()) })
	if i < 0 {
		return false
	}
	o := l.queue[i]
	l.queue = slices.Delete(l.queue, i, i+1)
	if l.outage {
		l.outage = false
		l.c.log.WarnContext(l.c.life, "leases are renewed again", peerAttr(l.link.peer)...)
	}
	l.failed, l.avoid, l.suspect, l.login = 0, "", nil, false
	l.renewals.Add(1)
	if a.GetTTL() <= 0 {
		o.lose(ErrNotFound, nil)
		return l.room()
	}
	sent, ttl := o.sent, time.Duration(a.GetTTL())*time.Second
	o.answered(sent, ttl)
	o.renewed(sent, ttl)
	return o.due.Before(l.next) || l.room()
}

// room reports whether it is time to send what had to wait. It is when half of the queue is answered: each look is one
// at all sessions.
func (l *loop) room() bool { return l.more && len(l.queue) <= unansweredMost/2 }

// unlink gives the stream up. What was sent on it will have to be sent again.
func (l *loop) unlink() (unanswered []outstanding) {
	if l.link == nil {
		return nil
	}
	l.link.cancel()
	unanswered, l.queue, l.link = l.queue, nil, nil
	for _, o := range unanswered {
		o.sent = time.Time{}
	}
	return unanswered
}

// fail draws the conclusions from a stream that has failed, or that could not be had.
func (l *loop) fail(err error, now time.Time) {
	at, opened := l.link.peer, l.link.stream != nil
	unanswered := l.unlink()
	l.avoid = at
	if opened && len(unanswered) == 0 {
		return // an idle stream: the server has restarted, or forgot us. The next one is opened when it is needed
	}
	l.failures.Add(1)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %s has ended the stream", errs.Unavailable, at)
	}
	class, condition := retry.Classify(err, false)
	err = retry.Explain(rpctypes.Error(err), condition)
	if len(unanswered) > 0 {
		// etcd answers in order, so what it refused is the first that it has not answered.
		first := unanswered[0]
		l.suspect = first.Session
		if class == retry.Hopeless && (errors.Is(condition, errs.Permission) || errors.Is(condition, errs.LeaseNotFound)) {
			first.lose(condition, err)
			l.avoid = "" // it is not the member's fault
			return
		}
	}
	shortest := l.suspendDue(err, now)
	l.failed++
	if l.failed == outageThreshold && !l.outage {
		l.outage = true
		l.c.log.WarnContext(l.c.life, "leases are not renewed", append(peerAttr(at), "error", err)...)
	}
	l.restAfter(class, now, shortest/patience/2)
}

// outageThreshold is how many streams in a row fail before that is logged: the first one is replaced at once, so that the
// restart of a member is no outage.
const outageThreshold = 2

// peerAttr is the peer as an attribute of a log record, if it is known.
func peerAttr(peer string) []any {
	if peer == "" {
		return nil
	}
	return []any{"peer", peer}
}

// suspendDue tells the sessions whose renewal has failed, and returns the shortest of their TTLs.
func (l *loop) suspendDue(err error, now time.Time) (shortest time.Duration) {
	l.mu.Lock()
	var due []*Session
	for s, t := range l.sessions {
		if t.sent.IsZero() && !t.due.After(now) {
			due = append(due, s)
			if shortest == 0 || t.ttl < shortest {
				shortest = t.ttl
			}
		}
	}
	l.mu.Unlock()
	for _, s := range due {
		s.suspend(err)
	}
	return shortest
}

// restAfter decides when to try again: at once after the first failure, and when a fresh login may help; later after
// more, but not so late that a short TTL is over.
func (l *loop) restAfter(class retry.Class, now time.Time, most time.Duration) {
	if again := class == retry.Reauth && !l.login; again || l.failed == 1 {
		l.login = l.login || again
		l.waits.Reset()
		l.rest = now
		return
	}
	l.rest = now.Add(min(l.waits.NextBackOff(), most))
}
