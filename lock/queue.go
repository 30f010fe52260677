package lock

import (
	"context"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/watch"
)

// keepWatch is how long a queue is watched after its last user has left.
const keepWatch = 30 * time.Second

// queue is what one process knows of one queue in etcd: the direct children of a prefix. All who use a queue in one
// locker share it. It costs nothing until somebody has to watch: see watch.
//
// # The model
//
// The watch is opened first. Once it is live it delivers each change, in order, none left out. Then the queue is read,
// linearizably, so at a revision that is no older than where the watch began; what the watch delivers up to that revision
// is dropped, what comes after it is applied. From then on the model is the queue as it was at some revision, which rises.
//
// A watch that breaks and goes on is still free of gaps. All the same, a place that is found admitted after a reopening
// is confirmed by one read, and counts from that. A watch that ends, since its history was compacted or rewritten, is
// begun anew, reading included.
type queue struct {
	l      *Locker
	prefix string
	line   line

	users int // of the locker's lock, as are the next two
	stop  context.CancelFunc
	idle  *time.Timer

	mu       sync.Mutex
	model    model
	rev      int64 // the model is the queue as of here
	base     int64 // when the queue was last read: nothing is known for sure of what was put before, and is gone
	known    bool
	early    []watch.Event // delivered before the first read
	sub      *watch.Subscription
	reopened uint64 // what the subscription said when the queue was last read
	places   map[string]*place
	changed  chan struct{} // closed at the next change
	failed   error         // why the queue cannot be watched
	suspects map[string]struct{}
	inspect  *time.Timer
}

// enter returns the queue of a prefix for one more user, who must exit.
func (l *Locker) enter(prefix string) *queue {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[prefix]
	if q == nil {
		q = &queue{
			l: l, prefix: prefix, line: line{tally: &l.counts.waiting},
			places: map[string]*place{}, suspects: map[string]struct{}{}, changed: make(chan struct{}),
		}
		l.queues[prefix] = q
	}
	q.users++
	if q.idle != nil {
		q.idle.Stop()
		q.idle = nil
	}
	return q
}

// exit ends one use. The last one leaves the watch open for a while.
func (q *queue) exit() {
	q.l.mu.Lock()
	defer q.l.mu.Unlock()
	q.users--
	switch {
	case q.users > 0:
	case q.stop == nil:
		delete(q.l.queues, q.prefix)
	default:
		q.idle = time.AfterFunc(q.l.keepWatch, q.expire)
	}
}

// expire ends the watch, unless somebody has come meanwhile.
func (q *queue) expire() {
	q.l.mu.Lock()
	defer q.l.mu.Unlock()
	if q.users == 0 && q.l.queues[q.prefix] == q {
		delete(q.l.queues, q.prefix)
		q.stop()
	}
}

// watch makes sure that the queue is watched. Without a user it is not: nobody would end it.
func (q *queue) watch() {
	q.l.mu.Lock()
	defer q.l.mu.Unlock()
	if q.users == 0 || q.stop != nil || q.l.closed {
		return
	}
	ctx, stop := context.WithCancel(q.l.life)
	q.stop = stop
	q.l.jobs.Go(func() {
		defer stop()
		q.run(ctx)
	})
}

// settle tells everybody who is concerned by how the queue stands now. The lock is held.
func (q *queue) settle() {
	for _, p := range q.places {
		p.settle()
	}
	close(q.changed)
	q.changed = make(chan struct{})
}

// snapshot waits until the queue is known, and returns its entries, which are read-only, and a channel that is closed
// when they have changed.
func (q *queue) snapshot(ctx context.Context) (entries []entry, changed <-chan struct{}, err error) {
	for {
		q.mu.Lock()
		known, failed, changed := q.known, q.failed, q.changed
		entries = append([]entry(nil), q.model.list...)
		q.mu.Unlock()
		switch {
		case failed != nil:
			return nil, nil, failed
		case known:
			return entries, changed, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, retry.ContextError(ctx)
		}
	}
}
