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

// renewLoop renews the sessions. Its fields, except the embedded renewer, belong to the goroutine
// that calls run. A second goroutine opens and reads the stream and sends events.
type renewLoop struct {
	*renewer

	events       chan streamEvent
	stream       *renewStream     // nil if there is none and none is being opened
	pending      []pendingRenewal // sent but not answered, in the order in which etcd answers
	lastReceived time.Time        // when the stream was started, opened or last answered
	backlog      bool             // due renewals wait until pending has room
	nextWake     time.Time        // when the timer fires next

	consecutiveFailures int       // streams that failed in a row
	avoidPeer           string    // address of the peer of the last stream that failed
	suspect             *Session  // session whose renewal that stream left unanswered first
	reauthenticated     bool      // already reconnected at once because of a rejected token
	notBefore           time.Time // no stream is started before this time
	backoff             backoff.BackOff
}

// pendingRenewal is a renewal that is due or awaits its response.
type pendingRenewal struct {
	*Session
	*renewalSchedule
}

func newRenewLoop(r *renewer) *renewLoop {
	l := &renewLoop{renewer: r, events: make(chan streamEvent)}
	l.backoff = retry.Policy{BaseDelay: 100 * time.Millisecond, MaxDelay: 2 * time.Second}.Backoff()
	return l
}

// run renews until no session is left.
func (l *renewLoop) run() {
	timer := time.AfterFunc(idleInterval, l.wakeLoop)
	defer timer.Stop()
	for {
		select {
		case <-l.wake:
		case e := <-l.events:
			if !l.handleEvent(e) {
				continue // nothing becomes due before the timer fires
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

// step sends what is due, checks the stream and returns when to run again. It returns false if no
// session is left.
func (l *renewLoop) step(now time.Time) (next time.Time, ok bool) {
	plan, ok := l.plan(now)
	if !ok {
		return now, false
	}
	if l.stream != nil && !now.Before(plan.silentAt) {
		l.c.engine.ReportOverdue(l.stream.peerAddr)
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
	plan, ok = l.plan(now) // includes what was just sent
	return earlier(plan.next, plan.silentAt), ok
}

// silenceError returns the error for a stream that has been silent for too long. It includes the
// reason if the connection is down.
func (l *renewLoop) silenceError(now time.Time) error {
	err := fmt.Errorf("%w: %s has not answered for %v", errs.Unavailable, l.peerName(), now.Sub(l.lastReceived).Round(time.Millisecond))
	if cause := wire.Explain(l.c.cli); cause != nil {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// peerName returns the address of the stream's peer, or "etcd" if it is unknown.
func (l *renewLoop) peerName() string {
	if l.stream == nil || l.stream.peerAddr == "" {
		return "etcd"
	}
	return l.stream.peerAddr
}

// maxStreamAttempts is how many streams are opened at most to reach a member other than avoidPeer.
const maxStreamAttempts = 5

// startStream starts to open a stream in the background.
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

// maxPending is the maximum number of unanswered renewals. It is far below what gRPC's flow-control
// windows hold in either direction. A loop that is blocked in Send could not receive the responses
// that make room.
const maxPending = 1024

// sendDue sends renewals, the most urgent first, because a server processes them one by one. The
// suspect comes last, so that it does not delay the others again.
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
	// Send blocks if too much is buffered. Canceling the stream then unblocks it.
	timeout := time.AfterFunc(responseTimeout(shortest), l.stream.cancel)
	defer timeout.Stop()
	for _, r := range due {
		r.sentAt = time.Now()
		l.pending = append(l.pending, r)
		if l.stream.client.Send(&pb.LeaseKeepAliveRequest{ID: int64(r.id)}) != nil {
			return // the reader reports the error, or the silence is detected
		}
	}
}

// shortestTTL returns the shortest TTL of the renewals, of which there must be at least one.
func shortestTTL(renewals []pendingRenewal) time.Duration {
	return slices.MinFunc(renewals, func(a, b pendingRenewal) int { return cmp.Compare(a.renewalSchedule.ttl, b.renewalSchedule.ttl) }).renewalSchedule.ttl
}

// handleEvent processes an event. It reports whether step must run now.
func (l *renewLoop) handleEvent(e streamEvent) bool {
	now := time.Now()
	switch {
	case e.from != l.stream:
		return false // from a stream that was closed
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

// handleResponse processes the response to a renewal. It reports whether step must run earlier than
// planned.
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

// hasRoom reports whether waiting renewals can be sent. It is true once half of pending is
// answered, and not earlier, because each step visits all sessions.
func (l *renewLoop) hasRoom() bool { return l.backlog && len(l.pending) <= maxPending/2 }

// closeStream closes the stream and returns the renewals that it left unanswered. They must be sent
// again.
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

// handleFailure handles a stream that failed or could not be opened.
func (l *renewLoop) handleFailure(err error, now time.Time) {
	peerAddr, opened := l.stream.peerAddr, l.stream.client != nil
	unanswered := l.closeStream()
	l.avoidPeer = peerAddr
	if opened && len(unanswered) == 0 {
		// An idle stream ended, for example because the server restarted; the next one is opened
		// when needed.
		return
	}
	l.failures.Add(1)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %s ended the stream", errs.Unavailable, peerAddr)
	}
	class, condition := retry.Classify(err, false)
	err = retry.WithCondition(rpctypes.Error(err), condition)
	if len(unanswered) > 0 {
		// etcd answers in order, so a refusal concerns the first unanswered renewal.
		first := unanswered[0]
		l.suspect = first.Session
		if class == retry.Permanent && (errors.Is(condition, errs.Permission) || errors.Is(condition, errs.LeaseNotFound)) {
			first.lose(condition, err)
			l.avoidPeer = "" // the member is not at fault
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

// outageThreshold is how many streams must fail in a row before an outage is logged. The first
// failure is not logged, because the stream is replaced at once: the restart of a member is not an
// outage.
const outageThreshold = 2

// peerAttrs returns the log attributes that name the peer, or none if it is unknown.
func peerAttrs(addr string) []any {
	if addr == "" {
		return nil
	}
	return []any{"peer", addr}
}

// suspendDue records the failed renewal of the sessions whose renewal is due, and returns the
// shortest of their TTLs, or 0 if there are none.
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

// scheduleRetry sets when the next stream may be started: at once after the first failure and, one
// more time, if a new login may help. Otherwise it is after a backoff of at most maxDelay, so that
// sessions with a short TTL are retried in time.
func (l *renewLoop) scheduleRetry(class retry.Class, now time.Time, maxDelay time.Duration) {
	if reauthenticate := class == retry.InvalidToken && !l.reauthenticated; reauthenticate || l.consecutiveFailures == 1 {
		l.reauthenticated = l.reauthenticated || reauthenticate
		l.backoff.Reset()
		l.notBefore = now
		return
	}
	l.notBefore = now.Add(min(l.backoff.NextBackOff(), maxDelay))
}
