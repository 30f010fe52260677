package lock

import (
	"context"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// queue is what one process shares of one queue in etcd, the direct children of a prefix: the local queue of its goroutines, and
// the poll of those who cannot watch.
type queue struct {
	l      *Locker
	name   string // for messages
	prefix string
	local  localQueue
	users  int // guarded by the locker's lock

	poller      *poller      // nil until somebody polls
	observation *observation // nil until somebody observes
}

// enter returns the queue of a kind of waiters for one more user, who must exit.
func (l *Locker) enter(kind *waiterKind) *queue {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[kind.prefix]
	if q == nil {
		q = &queue{l: l, name: kind.name, prefix: kind.prefix, local: localQueue{waiting: &l.counts.waiting}}
		l.queues[kind.prefix] = q
	}
	q.users++
	return q
}

// exit ends one use.
func (q *queue) exit() {
	q.l.mu.Lock()
	defer q.l.mu.Unlock()
	q.users--
	if q.users == 0 {
		delete(q.l.queues, q.prefix)
	}
}

// read reads the whole queue, newest first: one RPC, linearizable.
func (q *queue) read(ctx context.Context) (*page, error) {
	resp, err := q.l.read(ctx, "read queue", clientv3.OpGet(q.prefix, clientv3.WithPrefix()))
	if err != nil {
		return nil, err
	}
	p := parsePage(q.prefix, "", resp.revision(), resp.get(0))
	slices.SortFunc(p.entries, newestFirst)
	return p, nil
}

// The intervals of a poll.
const (
	minPollInterval = 500 * time.Millisecond
	maxPollInterval = 5 * time.Second
)

// poller reads a queue again and again while waiters of this process cannot watch it, for all of them at once.
type poller struct {
	q *queue

	mu    sync.Mutex
	users int
	stop  context.CancelFunc
	last  *page         // nil before the first read
	next  chan struct{} // closed when there is a newer one
}

// poll begins to poll, unless that is under way. leave must follow.
func (q *queue) poll() *poller {
	q.l.mu.Lock()
	if q.poller == nil {
		q.poller = &poller{q: q}
	}
	p := q.poller
	q.l.mu.Unlock()
	p.join()
	return p
}

func (p *poller) join() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users++
	if p.users > 1 {
		return
	}
	p.last, p.next = nil, make(chan struct{})
	ctx, stop := context.WithCancel(p.q.l.life)
	p.stop = stop
	p.q.l.spawn(func() { p.run(ctx) })
}

func (p *poller) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users--
	if p.users == 0 {
		p.stop()
	}
}

// newer returns a page that is newer than the given revision, or nil and what to wait for.
func (p *poller) newer(seen int64) (*page, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != nil && p.last.rev > seen {
		return p.last, p.next
	}
	return nil, p.next
}

func (p *poller) run(ctx context.Context) {
	for interval := minPollInterval; sleep(ctx, jitter(interval)); interval = min(2*interval, maxPollInterval) {
		last, err := p.q.read(ctx)
		if err != nil {
			continue // the next time
		}
		p.q.l.counts.confirmed.Add(1)
		p.mu.Lock()
		if ctx.Err() == nil {
			p.last = last
			close(p.next)
			p.next = make(chan struct{})
		}
		p.mu.Unlock()
	}
}
