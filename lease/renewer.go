package lease

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// How a TTL is divided up.
const (
	renewEvery = 3 // parts: a renewal is due a third of the TTL after the last one was sent
	patience   = 5 // parts: a stream that is silent for a fifth of the TTL counts as dead
)

// renewer is the sessions to be renewed and the goroutine that does it while there are any.
type renewer struct {
	c    *core
	wake chan struct{} // holds one: it is time for the loop to look, or something has changed

	ctx context.Context //nolint:containedctx // of all streams: they end with the last session, not with a caller
	cut context.CancelFunc

	renewals atomic.Uint64
	failures atomic.Uint64
	streams  atomic.Uint64

	outage bool // renewals fail, and that was logged; belongs to the loop, and outlives it

	mu       sync.Mutex
	closed   bool
	running  bool
	sessions map[*Session]*turn
	wg       sync.WaitGroup
}

// turn is where the renewal of one session stands. It belongs to the loop, once it is in the map.
type turn struct {
	ttl  time.Duration
	due  time.Time // when to send the next one
	sent time.Time // when the one under way was sent; zero when there is none
}

// answered begins the wait for the next renewal.
func (t *turn) answered(sent time.Time, ttl time.Duration) {
	t.ttl, t.sent, t.due = ttl, time.Time{}, sent.Add(ttl/renewEvery)
}

func (c *core) newRenewer() renewer {
	ctx, cut := context.WithCancel(context.WithoutCancel(c.life))
	return renewer{c: c, wake: make(chan struct{}, 1), ctx: ctx, cut: cut, sessions: map[*Session]*turn{}}
}

// add has a session renewed from now on. It reports false after close, and for a session that is over already, which
// nobody would remove.
func (r *renewer) add(s *Session, t term) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || s.over(time.Now()) {
		return false
	}
	one := &turn{}
	one.answered(t.asked, t.ttl)
	r.sessions[s] = one
	if !r.running {
		r.running = true
		r.wg.Go(func() { newLoop(r).run() })
	}
	r.nudge()
	return true
}

// remove ends the renewal of a session; with the last one the loop ends, and its stream.
func (r *renewer) remove(s *Session) {
	r.mu.Lock()
	delete(r.sessions, s)
	last := len(r.sessions) == 0
	r.mu.Unlock()
	if last {
		r.nudge()
	}
}

// nudge makes the loop look again.
func (r *renewer) nudge() {
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

// all are the sessions that live.
func (r *renewer) all() []*Session {
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
	return r.all()
}

// wait returns when the goroutines have ended, once the last session has.
func (r *renewer) wait() {
	r.cut() // one may be held up in sending
	r.wg.Wait()
}
