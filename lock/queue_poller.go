package lock

import (
	"context"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// The intervals of a poll, before jitter.
const (
	minPollInterval = 500 * time.Millisecond
	maxPollInterval = 5 * time.Second
)

// poller reads a queue periodically, for all waiters of this process that cannot watch it.
type poller struct {
	q *queue

	mu      sync.Mutex
	users   int
	stop    context.CancelFunc
	latest  *queuePage    // nil before the first read
	updated chan struct{} // closed when there is a newer page
}

// joinPoller joins the poll of the queue, and starts it if necessary. The caller must call release.
func (q *queue) joinPoller() *poller {
	q.l.mu.Lock()
	if q.poller == nil {
		q.poller = &poller{q: q}
	}
	p := q.poller
	q.l.mu.Unlock()
	p.retain()
	return p
}

func (p *poller) retain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users++
	if p.users > 1 {
		return
	}
	p.latest, p.updated = nil, make(chan struct{})
	ctx, stop := context.WithCancel(p.q.l.ctx)
	p.stop = stop
	p.q.l.goBackground(func() { p.run(ctx) })
}

func (p *poller) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users--
	if p.users == 0 {
		p.stop()
	}
}

// newer returns a page that is newer than the given revision, or nil. The channel is closed when
// the next page is there.
func (p *poller) newer(since int64) (*queuePage, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.latest != nil && p.latest.rev > since {
		return p.latest, p.updated
	}
	return nil, p.updated
}

func (p *poller) run(ctx context.Context) {
	for interval := minPollInterval; retry.Sleep(ctx, jitter(interval)) == nil; interval = min(2*interval, maxPollInterval) {
		last, err := p.q.readAll(ctx)
		if err != nil {
			continue // until the next interval
		}
		p.q.l.counters.confirmed.Add(1)
		p.mu.Lock()
		if ctx.Err() == nil {
			p.latest = last
			close(p.updated)
			p.updated = make(chan struct{})
		}
		p.mu.Unlock()
	}
}
