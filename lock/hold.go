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

// watchAfter is how long something is held before its key is watched, where it is not watched already: short holds cost
// no watch, and the holders of long ones are told in time when somebody deletes their key.
const watchAfter = 250 * time.Millisecond

// hold is the state of an acquired lock: a waiter that was granted, from the grant to the release or the loss. It uses its
// queue and, if there is one, stands at the head of its local queue. It watches its own key, without a goroutine.
type hold struct {
	w     *waiter
	token int64
	mod   int64 // of the key's put that the hold began with
	seen  int64 // the key was there at this revision
	own   bool  // the waiter is nobody else's afterwards: it has no local queue

	mu          sync.Mutex
	released    bool
	watched     bool
	cause       error         // why it is over; nil while it is held
	ctx         *holdContext  // nil before somebody asks for it
	timer       *time.Timer   // until the key is watched
	proclaiming chan struct{} // full while somebody proclaims; nil before somebody does
}

// begin makes a hold of a waiter that was granted. The caller's use of the queue becomes the hold's.
func (w *waiter) begin(own bool, token int64) *hold {
	l := w.q.l
	h := &hold{w: w, own: own, token: token, mod: w.mod, seen: w.token}
	l.counts.acquired.Add(1)
	l.counts.held.Add(1)
	if !own {
		w.q.local.began(h, !w.used)
	}
	w.used, w.ahead = true, nil
	w.mu.Lock()
	w.hold = h
	cause := w.lost
	w.mu.Unlock()
	if cause != nil {
		h.lose(cause)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer = time.AfterFunc(l.watchAfter, h.watch)
	return h
}

// watch watches the own key.
func (h *hold) watch() {
	l := h.w.q.l
	l.keys.Watch(keywatch.Target{Key: h.w.key}, h)
	h.mu.Lock()
	h.timer = nil
	h.watched = h.cause == nil
	over := !h.watched
	h.mu.Unlock()
	if over {
		l.keys.Unwatch(keywatch.Target{Key: h.w.key}, h)
	}
}

// unwatch ends the watch of the own key, and sees to it that none begins. It must not be called by the watcher.
func (h *hold) unwatch() {
	h.mu.Lock()
	if h.timer != nil {
		h.timer.Stop()
	}
	watched := h.watched
	h.watched = false
	h.mu.Unlock()
	if watched {
		h.w.q.l.keys.Unwatch(keywatch.Target{Key: h.w.key}, h)
	}
}

// Opened is for the watcher. What happened to the key before the watch was open is not told: it has to be looked at.
func (h *hold) Opened(rev int64) {
	if rev > h.seen {
		h.w.q.l.confirmHold(h)
	}
}

// Changed is for the watcher.
func (h *hold) Changed(ev *mvccpb.Event) {
	switch {
	case ev.Kv.GetModRevision() <= h.mod:
	case ev.Type == mvccpb.Event_DELETE || ev.Kv.GetCreateRevision() != h.w.create:
		h.lose(errKeyGone)
	case !h.ours(ev.Kv):
		h.lose(errOverwritten)
	}
}

// Lost is for the watcher, which opens the watch again.
func (h *hold) Lost(error) {}

// ours reports whether the key is as this hold's guard wants it, and on its lease. A key with a local queue is put anew for each
// hold, and by nobody else; one that is its holder's alone may be put by Proclaim.
func (h *hold) ours(own *mvccpb.KeyValue) bool {
	return own.GetLease() == int64(h.w.s.ID()) && (h.own || own.GetModRevision() == h.mod)
}

// maxConfirms is how many holds make sure of their keys at the same time, as they do when the stream was lost.
const maxConfirms = 8

// confirmHold has a hold make sure of its key in the background.
func (l *Locker) confirmHold(h *hold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unconfirmed = append(l.unconfirmed, h)
	if l.confirming < maxConfirms && !l.closed {
		l.confirming++
		l.jobs.Go(l.confirmHolds)
	}
}

// confirmHolds confirms one hold after the other, as long as there are any.
func (l *Locker) confirmHolds() {
	for {
		l.mu.Lock()
		if len(l.unconfirmed) == 0 || l.closed {
			l.confirming--
			l.mu.Unlock()
			return
		}
		h := l.unconfirmed[0]
		l.unconfirmed = l.unconfirmed[1:]
		l.mu.Unlock()
		h.confirm()
	}
}

// confirm makes sure that the key is there, until etcd has said so or the hold is over.
func (h *hold) confirm() {
	l := h.w.q.l
	pauses := newBackoff(maxPollInterval)
	for h.err() == nil && l.life.Err() == nil {
		err := h.look(l.life)
		if err == nil {
			l.counts.confirmed.Add(1)
			return
		}
		if permanent(err) {
			return
		}
		sleep(l.life, pauses.NextBackOff())
	}
}

// look reads the own key and notes a loss. The error is that of the read.
func (h *hold) look(ctx context.Context) error {
	resp, err := h.w.q.l.read(ctx, "verify", clientv3.OpGet(h.w.key))
	if err != nil {
		return err
	}
	switch kvs := resp.get(0).GetKvs(); {
	case len(kvs) == 0 || kvs[0].GetCreateRevision() != h.w.create:
		h.lose(errKeyGone)
	case !h.ours(kvs[0]):
		h.lose(errOverwritten)
	}
	return nil
}

// lose ends the hold, unless it has ended. It may be called by the watcher.
func (h *hold) lose(cause error) {
	h.mu.Lock()
	if h.cause != nil {
		h.mu.Unlock()
		return
	}
	h.cause = lost(cause)
	ctx := h.ctx
	h.mu.Unlock()
	l := h.w.q.l
	l.counts.lost.Add(1)
	l.counts.held.Add(-1)
	ctx.end(h.cause)
	l.spawn(func() { // not under a lock of the watcher's
		h.unwatch()
		l.logger.WarnContext(l.life, "lock lost", "name", errs.Short(h.w.q.name), "cause", cause)
	})
}

func (h *hold) context() context.Context {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx == nil {
		inner, cancel := context.WithCancelCause(context.WithoutCancel(h.w.q.l.life))
		h.ctx = &holdContext{inner, h, cancel}
		if h.cause != nil {
			cancel(h.cause)
		}
	}
	return h.ctx
}

// err looks at the clock, as that of the session does.
func (h *hold) err() error {
	if err := h.overErr(); err != nil {
		return err
	}
	if err := h.w.s.Err(); err != nil {
		h.lose(err)
	}
	return h.overErr()
}

func (h *hold) overErr() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cause
}

// compares is what is true in etcd as long as the hold lasts. A key with a local queue is put again for each turn: there the
// mod revision tells one hold from the next; a key that is its holder's alone may be put again by Proclaim.
func (h *hold) compares() []clientv3.Cmp {
	key := h.w.key
	if !h.own {
		return []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", h.mod)}
	}
	return []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", h.w.create)}
}

func (h *hold) guard() kv.Guard { return kv.NewGuard(ErrLost, h.compares()...) }

func (h *hold) name() string { return h.w.q.name }

// verify asks etcd whether the key is there.
func (h *hold) verify(ctx context.Context) error {
	ctx, done, err := h.w.q.l.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := h.err(); err != nil {
		return err
	}
	ctx, stop := withDefaultTimeout(ctx)
	defer stop()
	if err := h.look(ctx); err != nil {
		return err
	}
	return h.err()
}

// release ends the hold. What was lost is cleaned up after, in the background.
func (h *hold) release(ctx context.Context) error {
	if ctx == nil {
		return errNoContext
	}
	first, lostErr := h.detach()
	switch {
	case !first:
		return ErrReleased
	case lostErr != nil:
		h.abandon()
		return lostErr
	case h.handOff():
		return nil
	}
	return h.leave(ctx)
}

// drop ends the hold without waiting for anything.
func (h *hold) drop() {
	if first, lostErr := h.detach(); first && (lostErr != nil || !h.handOff()) {
		h.abandon()
	}
}

// detach notes the release, and that nobody holds by the waiter any more. It reports whether this was the first time, and
// why the hold was lost before, if it was.
func (h *hold) detach() (first bool, lostErr error) {
	if first, lostErr = h.end(); first {
		h.unwatch()
		h.w.mu.Lock()
		h.w.hold = nil
		h.w.mu.Unlock()
	}
	return first, lostErr
}

// handOff lets the next goroutine of the local queue have the waiter, if there is one and it is not another process's turn.
func (h *hold) handOff() bool {
	if h.own || !h.w.q.local.handOff(h.w) {
		return false
	}
	h.w.q.exit()
	return true
}

// abandon leaves the removal of the key to the background.
func (h *hold) abandon() {
	h.w.discard()
	if !h.own {
		h.w.q.local.releaseHead(nil)
	}
	h.w.q.exit()
}

// end notes the release.
func (h *hold) end() (first bool, lostErr error) {
	lostErr = h.err()
	h.mu.Lock()
	if h.released {
		h.mu.Unlock()
		return false, nil
	}
	h.released = true
	if lostErr == nil {
		lostErr = h.cause // a moment ago
	}
	if h.cause == nil {
		h.cause = ErrReleased
		h.w.q.l.counts.held.Add(-1)
	}
	ctx := h.ctx
	h.mu.Unlock()
	ctx.end(ErrReleased)
	return true, lostErr
}

// leave removes the key, and waits for that until ctx ends, for 10 s if ctx has no deadline, and for 5 s if it had ended
// before. What is not done by then is done in the background.
func (h *hold) leave(ctx context.Context) error {
	defer h.w.q.exit()
	if !h.own {
		defer h.w.q.local.releaseHead(nil)
	}
	if ctx.Err() != nil {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer stop()
	}
	ctx, done, err := h.w.q.l.begin(ctx)
	if err != nil {
		return err // closed: Close removes the key
	}
	defer done()
	_, err = h.w.remove(ctx)
	if err != nil && !errors.Is(err, ErrLost) && !errors.Is(err, errs.UnknownOutcome) {
		return fmt.Errorf("%w: %w", errs.UnknownOutcome, err) // of the work that goes on
	}
	return err
}

// holdContext is the context of a hold. It is a cancellable context of the standard library, but its Err also looks at the
// clock.
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

// Err is nil while the hold can be relied on.
func (c *holdContext) Err() error {
	if cause := c.h.err(); cause != nil {
		c.cancel(cause) // may be ahead of whoever ended it a moment ago
	}
	return c.Context.Err()
}
