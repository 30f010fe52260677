package lease

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// renewInterval is the time from sending one renewal of a lease to sending the next one.
func renewInterval(ttl time.Duration) time.Duration { return ttl / 3 }

// responseTimeout is how long a stream may be silent while a renewal of the lease is pending.
func responseTimeout(ttl time.Duration) time.Duration { return ttl / 5 }

// renewer is the sessions to be renewed and the goroutine that does it while there are any.
type renewer struct {
	c    *core
	wake chan struct{} // holds one: it is time for the loop to look, or something has changed

	ctx    context.Context //nolint:containedctx // of all streams: they end with the last session, not with a caller
	cancel context.CancelFunc

	renewals atomic.Uint64
	failures atomic.Uint64
	streams  atomic.Uint64

	outageLogged bool // renewals fail, and that was logged; belongs to the loop, and outlives it

	mu       sync.Mutex
	closed   bool
	running  bool
	sessions map[*Session]*renewalSchedule
	wg       sync.WaitGroup
}

// renewalSchedule is where the renewal of one session stands. It belongs to the loop, once it is in the map.
type renewalSchedule struct {
	ttl    time.Duration
	due    time.Time // when to send the next one
	sentAt time.Time // when the one under way was sent; zero when there is none
}

// advance begins the wait for the next renewal.
func (rs *renewalSchedule) advance(sentAt time.Time, ttl time.Duration) {
	rs.ttl, rs.sentAt, rs.due = ttl, time.Time{}, sentAt.Add(renewInterval(ttl))
}

func (c *core) newRenewer() renewer {
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.ctx))
	return renewer{c: c, wake: make(chan struct{}, 1), ctx: ctx, cancel: cancel, sessions: map[*Session]*renewalSchedule{}}
}

// add has a session renewed from now on. It reports false after close, and for a session that is over already, which
// nobody would remove.
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

// remove ends the renewal of a session; with the last one the loop ends, and its stream.
func (r *renewer) remove(s *Session) {
	r.mu.Lock()
	delete(r.sessions, s)
	last := len(r.sessions) == 0
	r.mu.Unlock()
	if last {
		r.wakeLoop()
	}
}

// wakeLoop makes the loop look again.
func (r *renewer) wakeLoop() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
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

// liveSessions are the sessions that live.
func (r *renewer) liveSessions() []*Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*Session, 0, len(r.sessions))
	for s := range r.sessions {
		out = append(out, s)
	}
	return out
}

// close lets no more sessions in and returns those that there are.
func (r *renewer) close() []*Session {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	return r.liveSessions()
}

// wait returns when the goroutines have ended, once the last session has.
func (r *renewer) wait() {
	r.cancel() // one may be held up in sending
	r.wg.Wait()
}
