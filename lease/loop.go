package lease

import (
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
)

// loop renews. It is one goroutine's own; what reads the stream is the other goroutine.
type loop struct {
	*renewer

	events chan event
	link   *link         // nil: no stream, and none on its way
	queue  []outstanding // sent and not answered, in the order in which etcd will answer
	heard  time.Time     // when the stream last gave a sign of life
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
		l.fail(fmt.Errorf("%w: %s has not answered for %v", errs.Unavailable, l.at(), now.Sub(l.heard).Round(time.Millisecond)), now)
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

// plan is what is to be done with all sessions.
type plan struct {
	due     []outstanding // to be renewed now
	next    time.Time     // when the next session will be due, if there is one that is not yet
	silence time.Time     // when the stream will have been silent for too long
}

const farOff = 24 * time.Hour

// plan looks at all sessions. When there are none the loop has to end: the next session gets a new one.
func (l *loop) plan(now time.Time) (p plan, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sessions) == 0 {
		l.running = false
		return p, false
	}
	p.next, p.silence = now.Add(farOff), now.Add(farOff)
	for s, t := range l.sessions {
		switch {
		case !t.sent.IsZero():
			since := t.sent
			if since.Before(l.heard) {
				since = l.heard
			}
			p.silence = earlier(p.silence, since.Add(t.ttl/patience))
		case t.due.After(now):
			p.next = earlier(p.next, t.due)
		default:
			p.due = append(p.due, outstanding{s, t})
			if l.link != nil && l.link.stream == nil {
				p.silence = earlier(p.silence, l.link.begun.Add(t.ttl/patience))
			}
		}
	}
	return p, true
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
	k.ctx, k.cancel = l.c.lifelong()
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
	shortest := slices.MinFunc(due, func(a, b outstanding) int { return int(a.turn.ttl - b.turn.ttl) }).turn.ttl
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
	if l.failed > 0 {
		l.c.log.InfoContext(l.c.life, "leases are renewed again", "peer", l.link.peer)
	}
	l.failed, l.avoid, l.suspect, l.login = 0, "", nil, false
	l.renewals.Add(1)
	if a.GetTTL() <= 0 {
		o.lose(ErrNotFound, nil)
		return false
	}
	sent, ttl := o.sent, time.Duration(a.GetTTL())*time.Second
	o.answered(sent, ttl)
	o.renewed(sent, ttl)
	return o.due.Before(l.next)
}

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
	if l.failed == 1 {
		l.c.log.WarnContext(l.c.life, "leases are not renewed", "peer", at, "error", err)
	}
	l.restAfter(class, now, shortest/patience/2)
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

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
