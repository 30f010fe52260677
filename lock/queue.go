package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// retainQueue returns the queue of a kind of waiters and counts one more use. The caller must call
// release.
func (l *Locker) retainQueue(kind *waiterKind) *queue {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[kind.prefix]
	if q == nil {
		q = &queue{l: l, name: kind.name, prefix: kind.prefix}
		q.local.q = q
		l.queues[kind.prefix] = q
	}
	q.users++
	return q
}

// release ends one use. The end of the last use removes the queue from the locker.
func (q *queue) release() {
	q.l.mu.Lock()
	defer q.l.mu.Unlock()
	q.users--
	if q.users == 0 {
		delete(q.l.queues, q.prefix)
	}
}

// sharedPoller returns the poller of the queue. It is created on first use, since few queues need
// one.
func (q *queue) sharedPoller() *poller {
	q.l.mu.Lock()
	defer q.l.mu.Unlock()
	if q.poller == nil {
		q.poller = &poller{q: q}
	}
	return q.poller
}

// sharedObserver returns the observer of the queue, which is created on first use as well.
func (q *queue) sharedObserver() *leaderObserver {
	q.l.mu.Lock()
	defer q.l.mu.Unlock()
	if q.observer == nil {
		q.observer = &leaderObserver{q: q}
	}
	return q.observer
}

// sharedRun runs a function in the background for as long as it has users. mu also guards what the
// function tells them.
type sharedRun struct {
	mu    sync.Mutex
	users int
	stop  context.CancelFunc // nil while the function does not run
}

// retain counts a user. Unless the function runs already, it calls reset, with mu held, and starts
// run. The caller must call release.
func (r *sharedRun) retain(l *Locker, reset func(), run func(context.Context)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users++
	if r.stop != nil {
		return
	}
	reset()
	var ctx context.Context
	ctx, r.stop = context.WithCancel(l.ctx)
	if !l.goBackground(func() { run(ctx) }) {
		r.end() // the locker is closed, and with it all waiting calls
	}
}

// release ends one use. The end of the last use stops the function.
func (r *sharedRun) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users--
	if r.users == 0 {
		r.end()
	}
}

// end stops the function, so that the next user starts it again. The caller holds mu.
func (r *sharedRun) end() {
	if r.stop != nil {
		r.stop()
		r.stop = nil
	}
}

// readAll reads the whole queue, newest first. It costs one linearizable RPC.
func (q *queue) readAll(ctx context.Context) (*queuePage, error) {
	resp, err := q.l.read(ctx, "read queue", clientv3.OpGet(q.prefix, clientv3.WithPrefix()))
	if err != nil {
		return nil, err
	}
	p := parsePage(q.prefix, "", resp.revision(), resp.rangeResponse(0))
	slices.SortFunc(p.entries, compareNewestFirst)
	return p, nil
}

// readOldest returns the first entry of a queue, or nil if the queue is empty, and the revision of
// the read. It costs one RPC, or two if keys of longer names come first.
func (l *Locker) readOldest(ctx context.Context, prefix string) (oldest *entry, rev int64, err error) {
	for _, limit := range []int64{exclusivePageSize, 0} {
		resp, err := l.read(ctx, "read leader", oldestOp(prefix, limit))
		if err != nil {
			return nil, 0, err
		}
		p := parsePage(prefix, "", resp.revision(), resp.rangeResponse(0))
		if len(p.entries) > 0 {
			return &p.entries[0], p.rev, nil
		}
		if rev = p.rev; p.complete {
			break
		}
	}
	return nil, rev, nil
}

// localLockedError returns the error of a call that this process itself keeps out, by a hold or a
// waiter.
func (q *queue) localLockedError(name string) error {
	switch holder, front := q.local.state(); {
	case holder != nil:
		return &LockedError{Name: name, Owner: q.l.owner, Token: holder.token, Local: true}
	case front != nil:
		return q.blockedError(name, front)
	}
	return &LockedError{Name: name}
}

// blockedError returns the error of a call that the entry e keeps out: a LockedError, or a
// BlockedError if e has no lease.
func (q *queue) blockedError(name string, e *entry) error {
	if e.lease == 0 {
		return q.l.permanentlyBlockedError(name, e)
	}
	return q.l.lockedError(name, e)
}

func (l *Locker) lockedError(name string, e *entry) error {
	return &LockedError{Name: name, Owner: e.owner(), Token: e.token(), Local: l.owns(e.key)}
}

// readHolderTimeout bounds the read for the holder after a wait has timed out.
const readHolderTimeout = 250 * time.Millisecond

// addHolder adds the holder of the lock to the error of a wait that has timed out. It costs one
// RPC, and none if a goroutine of this process holds the lock. If etcd does not answer at once, it
// returns err unchanged.
func (q *queue) addHolder(ctx context.Context, name string, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) || q.l.ctx.Err() != nil {
		return err
	}
	if holder, _ := q.local.state(); holder != nil {
		return fmt.Errorf("%w: %w", err, q.localLockedError(name))
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), readHolderTimeout)
	defer stop()
	resp, readErr := q.l.read(ctx, "read holder", oldestOp(q.prefix, exclusivePageSize))
	if readErr != nil {
		return err
	}
	page := parsePage(q.prefix, "", 0, resp.rangeResponse(0))
	if len(page.entries) == 0 {
		return err
	}
	return fmt.Errorf("%w: %w", err, q.l.lockedError(name, &page.entries[0]))
}

// owns reports whether this locker created the key.
func (l *Locker) owns(key string) bool { return strings.Contains(key, "-"+l.id+".") }

// permanentlyBlockedError returns the error for a key without a lease.
func (l *Locker) permanentlyBlockedError(name string, e *entry) error {
	return &BlockedError{Name: name, Key: e.key[len(l.namespace):], Revision: e.createRev}
}
