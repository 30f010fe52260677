package lease

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/notify"
)

// renewInterval returns the time between sending two renewals of a lease.
func renewInterval(ttl time.Duration) time.Duration { return ttl / 3 }

// responseTimeout returns how long a stream may be silent while a renewal of the lease is pending.
func responseTimeout(ttl time.Duration) time.Duration { return ttl / 5 }

// renewer holds the sessions to renew. It runs a renewLoop while there are any.
type renewer struct {
	c    *core
	wake chan struct{} // has capacity 1; makes the loop run a step

	ctx    context.Context //nolint:containedctx // of all streams, not of a caller
	cancel context.CancelFunc

	renewals atomic.Uint64
	failures atomic.Uint64
	streams  atomic.Uint64

	outageLogged bool // an outage was logged and goes on; used by the loop, but outlives it

	mu       sync.Mutex
	closed   bool
	running  bool
	sessions map[*Session]*renewalSchedule
	wg       sync.WaitGroup
}

// renewalSchedule is the state of the renewal of one session. It belongs to the loop once it is in
// the map.
type renewalSchedule struct {
	ttl    time.Duration
	due    time.Time // when to send the next renewal
	sentAt time.Time // when the pending renewal was sent; zero if none is pending
}

// advance schedules the next renewal after one that was sent at sentAt.
func (rs *renewalSchedule) advance(sentAt time.Time, ttl time.Duration) {
	rs.ttl, rs.sentAt, rs.due = ttl, time.Time{}, sentAt.Add(renewInterval(ttl))
}

func (c *core) newRenewer() renewer {
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.ctx))
	return renewer{c: c, wake: make(chan struct{}, 1), ctx: ctx, cancel: cancel, sessions: map[*Session]*renewalSchedule{}}
}

// add starts the renewal of a session. It returns false after close, and if the session has already
// ended: such a session would never be removed.
func (r *renewer) add(s *Session, res leaseResult) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || s.hasEnded(time.Now()) {
		return false
	}
	sched := &renewalSchedule{}
	sched.advance(res.sentAt, res.ttl)
	r.sessions[s] = sched
	if !r.running {
		r.running = true
		r.wg.Go(func() { newRenewLoop(r).run() })
	}
	r.wakeLoop()
	return true
}

// remove ends the renewal of a session. After the last one, the loop and its stream end.
func (r *renewer) remove(s *Session) {
	r.mu.Lock()
	delete(r.sessions, s)
	last := len(r.sessions) == 0
	r.mu.Unlock()
	if last {
		r.wakeLoop()
	}
}

// wakeLoop makes the loop run a step.
func (r *renewer) wakeLoop() {
	notify.Token(r.wake)
}

// find returns the live session of a lease, or nil.
func (r *renewer) find(id clientv3.LeaseID) *Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.sessions {
		if s.id == id {
			return s
		}
	}
	return nil
}

// liveSessions returns the live sessions.
func (r *renewer) liveSessions() []*Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*Session, 0, len(r.sessions))
	for s := range r.sessions {
		out = append(out, s)
	}
	return out
}

// close rejects further sessions and returns the live ones.
func (r *renewer) close() []*Session {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	return r.liveSessions()
}

// wait cancels all streams and waits for the goroutines. It must be called after the last session
// has ended.
func (r *renewer) wait() {
	r.cancel() // Send may be blocked
	r.wg.Wait()
}
