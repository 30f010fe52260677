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

// renewLoop renews. It is one goroutine's own; what reads the stream is the other goroutine.
type renewLoop struct {
	*renewer

	events       chan streamEvent
	stream       *renewStream     // nil: no stream, and none on its way
	pending      []pendingRenewal // sent and not answered, in the order in which etcd will answer
	lastReceived time.Time        // when the stream last gave a sign of life
	backlog      bool             // are due, and wait until there is room in the queue
	nextWake     time.Time        // when the timer will fire

	consecutiveFailures int       // streams in a row
	avoidPeer           string    // the peer of the last one of them
	suspect             *Session  // whose renewal it failed to answer
	reauthenticated     bool      // the last failure was a token that was refused
	notBefore           time.Time // no new stream before
	backoff             backoff.BackOff
}

// pendingRenewal is a renewal that awaits its answer.
type pendingRenewal struct {
	*Session
	*renewalSchedule
}

func newRenewLoop(r *renewer) *renewLoop {
	l := &renewLoop{renewer: r, events: make(chan streamEvent)}
	l.backoff = retry.Policy{BaseDelay: 100 * time.Millisecond, MaxDelay: 2 * time.Second}.Backoff()
	return l
}

// run renews until there is no session left.
func (l *renewLoop) run() {
	timer := time.AfterFunc(idleInterval, l.wakeLoop)
	defer timer.Stop()
	for {
		select {
		case <-l.wake:
		case e := <-l.events:
			if !l.handleEvent(e) {
				continue // what is due then is due after the timer: it may stay
			}
		}
		next, ok := l.step(time.Now())
		if !ok {
			l.closeStream()
			return
		}
		l.nextWake = next
		timer.Reset(time.Until(next))
	}
}

// step does what there is to do and returns when to look again, false when there is nothing to renew any more.
func (l *renewLoop) step(now time.Time) (next time.Time, ok bool) {
	plan, ok := l.plan(now)
	if !ok {
		return now, false
	}
	if l.stream != nil && !now.Before(plan.silentAt) {
		l.c.engine.Overdue(l.stream.peerAddr)
		l.handleFailure(l.silenceError(now), now)
		if plan, ok = l.plan(now); !ok {
			return now, false
		}
	}
	switch {
	case len(plan.due) == 0:
	case l.stream == nil && now.Before(l.notBefore):
		return earlier(plan.next, l.notBefore), true
	case l.stream == nil:
		l.startStream(now)
	case l.stream.client != nil:
		l.sendDue(plan.due)
	}
	plan, ok = l.plan(now) // with what has been sent
	return earlier(plan.next, plan.silentAt), ok
}

// silenceError says that the stream has been silent for too long, and why the connection is not there, if it is not.
func (l *renewLoop) silenceError(now time.Time) error {
	err := fmt.Errorf("%w: %s has not answered for %v", errs.Unavailable, l.peerName(), now.Sub(l.lastReceived).Round(time.Millisecond))
	if cause := wire.Explain(l.c.cli); cause != nil {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// peerName is the member that the stream leads to.
func (l *renewLoop) peerName() string {
	if l.stream == nil || l.stream.peerAddr == "" {
		return "etcd"
	}
	return l.stream.peerAddr
}

// maxStreamAttempts bounds the search for another member.
const maxStreamAttempts = 5

// startStream asks for a stream.
func (l *renewLoop) startStream(now time.Time) {
	s := &renewStream{startedAt: now}
	s.ctx, s.cancel = context.WithCancel(l.ctx)
	l.stream, l.lastReceived = s, now
	l.streams.Add(1)
	svc, avoidPeer, maxAttempts := l.c.service, l.avoidPeer, maxStreamAttempts
	if n := len(l.c.cli.Endpoints()); n > 0 { // a stub may lead anywhere
		maxAttempts = min(maxAttempts, n)
	}
	l.wg.Go(func() {
		defer s.cancel()
		s.run(svc, avoidPeer, maxAttempts, l.events)
	})
}

// maxPending is how many renewals are sent ahead of their answers. It is far below what gRPC's windows hold in either
// direction: a loop that waits for room to send would not take the answers that make room.
const maxPending = 1024

// sendDue sends renewals, the most urgent first, since a server works on one after the other. The session that the last
// stream broke over comes last, so that it does not hold up the others again.
func (l *renewLoop) sendDue(due []pendingRenewal) {
	slices.SortFunc(due, func(a, b pendingRenewal) int {
		if aSuspect, bSuspect := a.Session == l.suspect, b.Session == l.suspect; aSuspect != bSuspect {
			if aSuspect {
				return 1
			}
			return -1
		}
		return a.due.Compare(b.due)
	})
	n := min(maxPending-len(l.pending), len(due))
	l.backlog = len(due) > n
	if due = due[:n]; n == 0 {
		return
	}
	shortest := shortestTTL(due)
	timeout := time.AfterFunc(responseTimeout(shortest), l.stream.cancel) // a stream takes many small messages before it blocks, but it may
	defer timeout.Stop()
	for _, r := range due {
		r.sentAt = time.Now()
		l.pending = append(l.pending, r)
		if l.stream.client.Send(&pb.LeaseKeepAliveRequest{ID: int64(r.id)}) != nil {
			return // the reader gets to know why, or the silence tells
		}
	}
}

// shortestTTL returns the shortest TTL of some sessions, of which there must be one.
func shortestTTL(renewals []pendingRenewal) time.Duration {
	return slices.MinFunc(renewals, func(a, b pendingRenewal) int { return cmp.Compare(a.renewalSchedule.ttl, b.renewalSchedule.ttl) }).renewalSchedule.ttl
}

// handleEvent takes note of an event, and reports whether there may be something to do now.
func (l *renewLoop) handleEvent(e streamEvent) bool {
	now := time.Now()
	switch {
	case e.from != l.stream:
		return false // of a stream that was given up
	case e.err != nil:
		l.handleFailure(e.err, now)
	case e.client != nil:
		l.stream.client, l.stream.peerAddr, l.lastReceived = e.client, e.peerAddr, now
	default:
		l.lastReceived = now
		return l.handleResponse(e.response)
	}
	return true
}

// handleResponse counts one renewal. It reports whether there is something to do before what was planned.
func (l *renewLoop) handleResponse(resp *pb.LeaseKeepAliveResponse) bool {
	i := slices.IndexFunc(l.pending, func(r pendingRenewal) bool { return r.id == clientv3.LeaseID(resp.GetID()) })
	if i < 0 {
		return false
	}
	r := l.pending[i]
	l.pending = slices.Delete(l.pending, i, i+1)
	if l.outageLogged {
		l.outageLogged = false
		l.c.log.WarnContext(l.c.ctx, "leases are renewed again", peerAttrs(l.stream.peerAddr)...)
	}
	l.consecutiveFailures, l.avoidPeer, l.suspect, l.reauthenticated = 0, "", nil, false
	l.renewals.Add(1)
	if resp.GetTTL() <= 0 {
		r.lose(ErrNotFound, nil)
		return l.hasRoom()
	}
	sentAt, ttl := r.sentAt, time.Duration(resp.GetTTL())*time.Second
	r.advance(sentAt, ttl)
	r.extend(sentAt, ttl)
	return r.due.Before(l.nextWake) || l.hasRoom()
}

// hasRoom reports whether it is time to send what had to wait. It is when half of the queue is answered: each look is one
// at all sessions.
func (l *renewLoop) hasRoom() bool { return l.backlog && len(l.pending) <= maxPending/2 }

// closeStream gives the stream up. What was sent on it will have to be sent again.
func (l *renewLoop) closeStream() (unanswered []pendingRenewal) {
	if l.stream == nil {
		return nil
	}
	l.stream.cancel()
	unanswered, l.pending, l.stream = l.pending, nil, nil
	for _, r := range unanswered {
		r.sentAt = time.Time{}
	}
	return unanswered
}

// handleFailure draws the conclusions from a stream that has failed, or that could not be had.
func (l *renewLoop) handleFailure(err error, now time.Time) {
	peerAddr, opened := l.stream.peerAddr, l.stream.client != nil
	unanswered := l.closeStream()
	l.avoidPeer = peerAddr
	if opened && len(unanswered) == 0 {
		return // an idle stream: the server has restarted, or forgot us. The next one is opened when it is needed
	}
	l.failures.Add(1)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %s has ended the stream", errs.Unavailable, peerAddr)
	}
	class, condition := retry.Classify(err, false)
	err = retry.Explain(rpctypes.Error(err), condition)
	if len(unanswered) > 0 {
		// etcd answers in order, so what it refused is the first that it has not answered.
		first := unanswered[0]
		l.suspect = first.Session
		if class == retry.Hopeless && (errors.Is(condition, errs.Permission) || errors.Is(condition, errs.LeaseNotFound)) {
			first.lose(condition, err)
			l.avoidPeer = "" // it is not the member's fault
			return
		}
	}
	shortest := l.suspendDue(err, now)
	l.consecutiveFailures++
	if l.consecutiveFailures == outageThreshold && !l.outageLogged {
		l.outageLogged = true
		l.c.log.WarnContext(l.c.ctx, "leases are not renewed", append(peerAttrs(peerAddr), "error", err)...)
	}
	l.scheduleRetry(class, now, responseTimeout(shortest)/2)
}

// outageThreshold is how many streams in a row fail before that is logged: the first one is replaced at once, so that the
// restart of a member is no outage.
const outageThreshold = 2

// peerAttrs is the peer as an attribute of a log record, if it is known.
func peerAttrs(addr string) []any {
	if addr == "" {
		return nil
	}
	return []any{"peer", addr}
}

// suspendDue tells the sessions whose renewal has failed, and returns the shortest of their TTLs.
func (l *renewLoop) suspendDue(err error, now time.Time) (shortest time.Duration) {
	l.mu.Lock()
	var due []*Session
	for s, sched := range l.sessions {
		if sched.sentAt.IsZero() && !sched.due.After(now) {
			due = append(due, s)
			if shortest == 0 || sched.ttl < shortest {
				shortest = sched.ttl
			}
		}
	}
	l.mu.Unlock()
	for _, s := range due {
		s.suspend(err)
	}
	return shortest
}

// scheduleRetry decides when to try again: at once after the first failure, and when a fresh login may help; later after
// more, but not so late that a short TTL is over.
func (l *renewLoop) scheduleRetry(class retry.Class, now time.Time, maxDelay time.Duration) {
	if reauthenticate := class == retry.Reauth && !l.reauthenticated; reauthenticate || l.consecutiveFailures == 1 {
		l.reauthenticated = l.reauthenticated || reauthenticate
		l.backoff.Reset()
		l.notBefore = now
		return
	}
	l.notBefore = now.Add(min(l.backoff.NextBackOff(), maxDelay))
}
