package lock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keywatch"
	"github.com/etcdkit/etcdkit/kv"
)

// watchAfter is the age at which a hold begins to watch its key. Short holds need no watch, and
// holders of longer ones learn soon that a third party has deleted their key.
const watchThreshold = 250 * time.Millisecond

// hold is the state of an acquired lock: a waiter that was granted, from the grant to the release
// or the loss. It keeps its use of the queue, and, if there is a local queue, is at the head of it.
// It watches its own key, without a goroutine.
type hold struct {
	w        *waiter
	token    int64
	modRev   int64 // mod revision of the key at the grant
	seenRev  int64 // a revision at which the key existed
	unshared bool  // the waiter has no local queue and is used for this hold only

	mu           sync.Mutex
	released     bool
	watched      bool
	cause        error         // why the hold is over; nil while it is held
	ctx          *holdContext  // nil until it is first requested
	watchTimer   *time.Timer   // starts the watch; nil once it has
	proclaimSlot chan struct{} // full while a Proclaim runs; nil before the first
}

// begin returns the hold of a waiter that was granted. The hold takes over the caller's use of the
// queue.
func (w *waiter) startHold(own bool, token int64) *hold {
	l := w.q.l
	h := &hold{w: w, unshared: own, token: token, modRev: w.modRev, seenRev: w.token}
	l.counters.acquired.Add(1)
	l.counters.held.Add(1)
	if !own {
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

// watch begins to watch the own key.
func (h *hold) watch() {
	l := h.w.q.l
	l.keyWatcher.Watch(keywatch.Target{Key: h.w.key}, h)
	h.mu.Lock()
	h.watchTimer = nil
	h.watched = h.cause == nil
	over := !h.watched
	h.mu.Unlock()
	if over {
		l.keyWatcher.Unwatch(keywatch.Target{Key: h.w.key}, h)
	}
}

// unwatch ends the watch of the own key, or prevents its start. The watcher must not call it.
func (h *hold) unwatch() {
	h.mu.Lock()
	if h.watchTimer != nil {
		h.watchTimer.Stop()
	}
	watched := h.watched
	h.watched = false
	h.mu.Unlock()
	if watched {
		h.w.q.l.keyWatcher.Unwatch(keywatch.Target{Key: h.w.key}, h)
	}
}

// Opened implements [keywatch.Handler]. Changes before the watch was open are not delivered, so the
// key is read if there may have been any.
func (h *hold) Opened(rev int64) {
	if rev > h.seenRev {
		h.w.q.l.confirmHold(h)
	}
}

// Changed implements [keywatch.Handler].
func (h *hold) Changed(ev *mvccpb.Event) {
	switch {
	case ev.Kv.GetModRevision() <= h.modRev:
	case ev.Type == mvccpb.Event_DELETE || ev.Kv.GetCreateRevision() != h.w.createRev:
		h.markLost(errKeyDeleted)
	case !h.isUnchanged(ev.Kv):
		h.markLost(errOverwritten)
	}
}

// Lost implements [keywatch.Handler]. It does nothing: the watcher opens the watch again.
func (h *hold) Lost(error) {}

// ours reports whether the key matches the guard of this hold and is on its lease. A key with a
// local queue is put again for each hold, and by nothing else. A key without one may be put by
// Proclaim.
func (h *hold) isUnchanged(own *mvccpb.KeyValue) bool {
	return own.GetLease() == int64(h.w.session.ID()) && (h.unshared || own.GetModRevision() == h.modRev)
}

// maxConfirms is how many holds read their keys at the same time, as they do after a stream has
// failed.
const maxConfirmWorkers = 8

// confirmHold makes the hold read its key in the background.
func (l *Locker) confirmHold(h *hold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unconfirmed = append(l.unconfirmed, h)
	if l.confirmWorkers < maxConfirmWorkers && !l.closed {
		l.confirmWorkers++
		l.background.Go(l.confirmHolds)
	}
}

// confirmHolds confirms one hold after the other until none is left.
func (l *Locker) confirmHolds() {
	for {
		l.mu.Lock()
		if len(l.unconfirmed) == 0 || l.closed {
			l.confirmWorkers--
			l.mu.Unlock()
			return
		}
		h := l.unconfirmed[0]
		l.unconfirmed = l.unconfirmed[1:]
		l.mu.Unlock()
		h.confirm()
	}
}

// confirm reads the key until etcd answers, the error is permanent, or the hold is over.
func (h *hold) confirm() {
	l := h.w.q.l
	backoffs := newBackoff(maxPollInterval)
	for h.err() == nil && l.ctx.Err() == nil {
		err := h.checkKey(l.ctx)
		if err == nil {
			l.counters.confirmed.Add(1)
			return
		}
		if isPermanent(err) {
			return
		}
		sleep(l.ctx, backoffs.NextBackOff())
	}
}

// look reads the own key and records a loss. It returns the error of the read.
func (h *hold) checkKey(ctx context.Context) error {
	resp, err := h.w.q.l.read(ctx, "verify", clientv3.OpGet(h.w.key))
	if err != nil {
		return err
	}
	switch kvs := resp.rangeResponse(0).GetKvs(); {
	case len(kvs) == 0 || kvs[0].GetCreateRevision() != h.w.createRev:
		h.markLost(errKeyDeleted)
	case !h.isUnchanged(kvs[0]):
		h.markLost(errOverwritten)
	}
	return nil
}

// lose ends the hold if it has not ended. The watcher may call it.
func (h *hold) markLost(cause error) {
	h.mu.Lock()
	if h.cause != nil {
		h.mu.Unlock()
		return
	}
	h.cause = newLostError(cause)
	ctx := h.ctx
	h.mu.Unlock()
	l := h.w.q.l
	l.counters.lost.Add(1)
	l.counters.held.Add(-1)
	ctx.end(h.cause)
	l.goBackground(func() { // not with the lock of the watcher held
		h.unwatch()
		l.logger.WarnContext(l.ctx, "lock lost", "name", errs.Short(h.w.q.name), "cause", cause)
	})
}

func (h *hold) context() context.Context {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx == nil {
		inner, cancel := context.WithCancelCause(context.WithoutCancel(h.w.q.l.ctx))
		h.ctx = &holdContext{inner, h, cancel}
		if h.cause != nil {
			cancel(h.cause)
		}
	}
	return h.ctx
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
	if !h.unshared {
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
	if ctx == nil {
		return errNoContext
	}
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

// drop ends the hold without waiting.
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

// handOff hands the waiter to the next goroutine of the local queue. It reports false if there is
// none or if it is the turn of another process.
func (h *hold) handOff() bool {
	if h.unshared || !h.w.q.local.handOff(h.w) {
		return false
	}
	h.w.q.release()
	return true
}

// abandon leaves the removal of the key to the background.
func (h *hold) removeInBackground() {
	h.w.discard()
	if !h.unshared {
		h.w.q.local.releaseHead(nil)
	}
	h.w.q.release()
}

// end records the release. It reports whether this was the first one, and returns the cause if the
// hold was lost before.
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
	if h.cause == nil {
		h.cause = ErrReleased
		h.w.q.l.counters.held.Add(-1)
	}
	ctx := h.ctx
	h.mu.Unlock()
	ctx.end(ErrReleased)
	return true, lostErr
}

// leave removes the key. It waits until ctx ends, for 10 s if ctx has no deadline, and for 5 s if
// ctx has already ended. After that the removal continues in the background.
func (h *hold) remove(ctx context.Context) error {
	defer h.w.q.release()
	if !h.unshared {
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

// holdContext is the context of a hold. It wraps a cancellable context of the standard library. Its
// Err checks the clock as well.
type holdContext struct {
	context.Context //nolint:containedctx // it is one

	h      *hold
	cancel context.CancelCauseFunc
}

// end ends the context. It does nothing if c is nil.
func (c *holdContext) end(cause error) {
	if c != nil {
		c.cancel(cause)
	}
}

// Err returns nil while the hold is valid.
func (c *holdContext) Err() error {
	if cause := c.h.err(); cause != nil {
		c.cancel(cause) // the goroutine that ended the hold may not have done so yet
	}
	return c.Context.Err()
}
