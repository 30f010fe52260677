package lock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
)

// hold is the state of an acquired lock: a waiter that was granted, from the grant to the release
// or the loss. It keeps its use of the queue, and, if there is a local queue, is at the head of it.
// It watches its own key, without a goroutine.
type hold struct {
	w       *waiter
	token   int64
	modRev  int64 // mod revision of the key at the grant
	seenRev int64 // a revision at which the key existed
	local   bool  // the waiter is at the head of the local queue

	mu           sync.Mutex
	released     bool
	watched      bool
	cause        error         // why the hold is over; nil while it is held
	operation    scope.Running // the operation that ends with the hold
	ctx          *holdContext  // nil until it is first requested
	watchTimer   *time.Timer   // starts the watch; nil once it has
	proclaimSlot chan struct{} // full while a Proclaim runs; nil before the first
}

// acquirer returns a waiter of the given kind that was granted. On an error it leaves nothing
// behind.
type acquirer func(ctx context.Context, q *queue, kind *waiterKind) (*waiter, error)

// acquireHold begins the hold of a waiter that f returns. The observer sees it as the operation op,
// followed by the operation "hold". handleErr is the error of an invalid handle.
func (l *Locker) acquireHold(ctx context.Context, op string, kind *waiterKind, handleErr error, f acquirer) (*hold, error) {
	opCtx, operation := l.scope.Begin(ctx, scope.Operation{Package: "lock", Name: op, Target: kind.name})
	h, err := l.acquireUnobserved(opCtx, kind, handleErr, f)
	if err != nil {
		operation.End(err, 0)
		return nil, err
	}
	operation.End(nil, h.token)
	h.observe(l.scope.BeginDetached(ctx, scope.Operation{Package: "lock", Name: "hold", Target: kind.name}))
	return h, nil
}

// acquireUnobserved is acquireHold without the observer.
func (l *Locker) acquireUnobserved(ctx context.Context, kind *waiterKind, handleErr error, f acquirer) (*hold, error) {
	if handleErr != nil {
		return nil, handleErr
	}
	ctx, done, err := l.startCall(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	q := l.retainQueue(kind)
	w, err := f(ctx, q, kind)
	if err != nil {
		q.release()
		return nil, err
	}
	return newHold(w, kind.local), nil
}

// acquireAlone waits for a grant with a waiter that is not handed to another goroutine.
func acquireAlone(ctx context.Context, q *queue, kind *waiterKind) (*waiter, error) {
	w, err := q.enqueue(ctx, kind)
	if err != nil {
		return nil, err
	}
	if kind.onEnqueued != nil {
		kind.onEnqueued()
	}
	if err = w.awaitGrant(ctx); err != nil {
		w.discard()
		return nil, q.addHolder(ctx, kind.name, err)
	}
	return w, nil
}

// tryAlone is like acquireAlone, but does not wait.
func tryAlone(ctx context.Context, q *queue, kind *waiterKind) (*waiter, error) {
	return q.createWaiter(ctx, kind, (*waiter).enqueueIfAdmitted)
}

// newHold returns the hold of a waiter that was granted. The hold takes over the caller's use of
// the queue. local reports whether the waiter is at the head of the local queue. Otherwise it takes
// no turns, and its token is its create revision, so that tokens rise in the order of the queue.
func newHold(w *waiter, local bool) *hold {
	l := w.q.l
	h := &hold{w: w, local: local, token: w.createRev, modRev: w.modRev, seenRev: w.token}
	l.counters.acquired.Add(1)
	l.counters.held.Add(1)
	if local {
		h.token = w.token
		w.q.local.setHolder(h, !w.wasHeld)
	}
	w.wasHeld, w.ahead = true, nil
	w.mu.Lock()
	w.hold = h
	cause := w.lostCause
	w.mu.Unlock()
	if cause != nil {
		h.markLost(cause)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchTimer = time.AfterFunc(l.watchThreshold, h.watch)
	return h
}

// markLost ends the hold if it has not ended. The watcher may call it.
func (h *hold) markLost(cause error) {
	h.mu.Lock()
	if h.cause != nil {
		h.mu.Unlock()
		return
	}
	h.cause = newLostError(cause)
	ctx, operation := h.ctx, h.operation
	h.mu.Unlock()
	l := h.w.q.l
	operation.EndSoon(h.cause, h.token)
	l.counters.lost.Add(1)
	l.counters.held.Add(-1)
	ctx.end(h.cause)
	l.goBackground(func() { // not with the lock of the watcher held
		h.unwatch()
		l.logger.WarnContext(l.ctx, "lock lost", "name", errs.Short(h.w.q.name), "cause", cause)
	})
}

// err returns why the hold is over, or nil. It checks the clock, as Err of the session does.
func (h *hold) err() error {
	if err := h.endErr(); err != nil {
		return err
	}
	if err := h.w.session.Err(); err != nil {
		h.markLost(err)
	}
	return h.endErr()
}

// endErr returns why the hold is over, or nil, without checking the clock.
func (h *hold) endErr() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cause
}

// compares returns the comparisons that are true in etcd as long as the hold lasts. A key with a
// local queue is put again at each turn, and its mod revision tells one hold from the next. A key
// without one may be put by Proclaim, so its create revision is compared.
func (h *hold) compares() []clientv3.Cmp {
	key := h.w.key
	if h.local {
		return []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", h.modRev)}
	}
	return []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", h.w.createRev)}
}

func (h *hold) guard() kv.Guard { return kv.NewGuard(ErrLost, h.compares()...) }

func (h *hold) name() string { return h.w.q.name }

// verify reads the key in etcd, and returns an error if the hold is over or etcd does not answer.
func (h *hold) verify(ctx context.Context) error {
	ctx, done, err := h.w.q.l.startCall(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := h.err(); err != nil {
		return err
	}
	ctx, stop := withCallTimeout(ctx)
	defer stop()
	if err := h.checkKey(ctx); err != nil {
		return err
	}
	return h.err()
}

// release ends the hold. If the hold was lost, its key is removed in the background.
func (h *hold) release(ctx context.Context) error {
	first, lostErr := h.detach()
	switch {
	case !first:
		return ErrReleased
	case lostErr != nil:
		h.removeInBackground()
		return lostErr
	case h.handOff():
		return nil
	}
	return h.remove(ctx)
}

// releaseInBackground ends the hold without waiting.
func (h *hold) releaseInBackground() {
	if first, lostErr := h.detach(); first && (lostErr != nil || !h.handOff()) {
		h.removeInBackground()
	}
}

// detach records the release, and detaches the waiter from the hold. It reports whether this was
// the first release, and returns the cause if the hold was lost before.
func (h *hold) detach() (first bool, lostErr error) {
	if first, lostErr = h.markReleased(); first {
		h.unwatch()
		h.w.mu.Lock()
		h.w.hold = nil
		h.w.mu.Unlock()
	}
	return first, lostErr
}

// handOff hands the waiter to the next goroutine of the local queue. It returns false if there is
// none or if it is the turn of another process.
func (h *hold) handOff() bool {
	if !h.local || !h.w.q.local.handOff(h.w) {
		return false
	}
	h.w.q.release()
	return true
}

// removeInBackground leaves the removal of the key to the background.
func (h *hold) removeInBackground() {
	h.w.discard()
	if h.local {
		h.w.q.local.releaseHead(nil)
	}
	h.w.q.release()
}

// markReleased records the release. It reports whether this was the first one, and returns the
// cause if the hold was lost before.
func (h *hold) markReleased() (first bool, lostErr error) {
	lostErr = h.err()
	h.mu.Lock()
	if h.released {
		h.mu.Unlock()
		return false, nil
	}
	h.released = true
	if lostErr == nil {
		lostErr = h.cause // lost since the check above
	}
	var operation scope.Running
	if h.cause == nil {
		h.cause = ErrReleased
		h.w.q.l.counters.held.Add(-1)
		operation = h.operation
	}
	ctx := h.ctx
	h.mu.Unlock()
	ctx.end(ErrReleased)
	operation.End(nil, h.token)
	return true, lostErr
}

// remove removes the key. It waits until ctx ends, for 10 s if ctx has no deadline, and for 5 s if
// ctx has already ended. After that the removal continues in the background.
func (h *hold) remove(ctx context.Context) error {
	defer h.w.q.release()
	if h.local {
		defer h.w.q.local.releaseHead(nil)
	}
	if ctx.Err() != nil {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer stop()
	}
	ctx, done, err := h.w.q.l.startCall(ctx)
	if err != nil {
		return err // the locker is closed: Close removes the key
	}
	defer done()
	_, err = h.w.removeKey(ctx)
	if err != nil && !errors.Is(err, ErrLost) && !errors.Is(err, errs.UnknownOutcome) {
		return fmt.Errorf("%w: %w", errs.UnknownOutcome, err) // the removal continues
	}
	return err
}

// observe makes the end of the hold that of the operation, at once if the hold is over already.
func (h *hold) observe(operation scope.Running) {
	h.mu.Lock()
	h.operation = operation
	cause := h.cause
	h.mu.Unlock()
	if cause != nil {
		operation.End(cause, h.token)
	}
}

// proclaim puts the key with another value. It costs one RPC.
func (h *hold) proclaim(ctx context.Context, value string) error {
	ctx, done, err := h.w.q.l.startCall(ctx)
	if err != nil {
		return err
	}
	defer done()
	slot := h.proclaimSemaphore()
	select {
	case slot <- struct{}{}:
		defer func() { <-slot }()
	case <-ctx.Done():
		return retry.ContextError(ctx)
	}
	if err := h.err(); err != nil {
		return err
	}
	if _, err := h.w.rewriteKey(ctx, value); err != nil {
		return cmp.Or(h.err(), err)
	}
	return nil
}

// proclaimSemaphore returns the semaphore that lets one proclaim run at a time.
func (h *hold) proclaimSemaphore() chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.proclaimSlot == nil {
		h.proclaimSlot = make(chan struct{}, 1)
	}
	return h.proclaimSlot
}
