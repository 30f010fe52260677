package lock

import (
	"context"
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
	sharedRun

	q       *queue
	latest  *queuePage    // nil before the first read
	updated chan struct{} // closed when there is a newer page
}

// join joins the poll, and starts it if necessary. The caller must call release.
func (p *poller) join() {
	p.retain(p.q.l, func() { p.latest, p.updated = nil, make(chan struct{}) }, p.run)
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
