package lock

import (
	"context"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// queue is the state that one process shares for one queue in etcd, the direct children of a
// prefix: the local queue of its goroutines, the poll of those that cannot watch, and the
// observation.
type queue struct {
	l      *Locker
	name   string // for messages
	prefix string
	local  localQueue
	users  int // guarded by the locker's mu

	poller   *poller         // nil until first used
	observer *leaderObserver // nil until first used
}

// enter returns the queue of a kind of waiters and counts one more use. The caller must call exit.
func (l *Locker) retainQueue(kind *waiterKind) *queue {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[kind.prefix]
	if q == nil {
		q = &queue{l: l, name: kind.name, prefix: kind.prefix, local: localQueue{waiting: &l.counters.waiting}}
		l.queues[kind.prefix] = q
	}
	q.users++
	return q
}

// exit ends one use. The last use removes the queue from the locker.
func (q *queue) release() {
	q.l.mu.Lock()
	defer q.l.mu.Unlock()
	q.users--
	if q.users == 0 {
		delete(q.l.queues, q.prefix)
	}
}

// read reads the whole queue, newest first. It costs one linearizable RPC.
func (q *queue) readAll(ctx context.Context) (*queuePage, error) {
	resp, err := q.l.read(ctx, "read queue", clientv3.OpGet(q.prefix, clientv3.WithPrefix()))
	if err != nil {
		return nil, err
	}
	p := parsePage(q.prefix, "", resp.revision(), resp.rangeResponse(0))
	slices.SortFunc(p.entries, compareNewestFirst)
	return p, nil
}

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

// poll joins the poll of the queue, and starts it if necessary. The caller must call leave.
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
func (p *poller) newer(seen int64) (*queuePage, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.latest != nil && p.latest.rev > seen {
		return p.latest, p.updated
	}
	return nil, p.updated
}

func (p *poller) run(ctx context.Context) {
	for interval := minPollInterval; sleep(ctx, jitter(interval)); interval = min(2*interval, maxPollInterval) {
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
