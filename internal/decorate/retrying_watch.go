package decorate

import (
	"context"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// retryingWatch is one watch of a caller. It opens watches of the base Watcher one after another,
// and presents them to the caller as one.
type retryingWatch struct {
	watcher       *watcher
	ctx           context.Context //nolint:containedctx // the caller's, which bounds the watch
	stream        string
	key           string
	opts          []clientv3.OpOption
	createdNotify bool // the caller wants a response to the creation
	out           chan clientv3.WatchResponse

	current      *baseWatch
	nextRevision int64 // the first revision not delivered yet; 0 starts after the creation
	refusals     int   // consecutive ones
	backoff      backoff.BackOff
}

func newRetryingWatch(ctx context.Context, w *watcher, key string, opts []clientv3.OpOption) *retryingWatch {
	op := clientv3.OpWatch(key, opts...) // panics if client/v3 does
	return &retryingWatch{
		watcher: w, ctx: ctx, stream: streamKey(ctx), key: key, opts: slices.Clip(opts),
		createdNotify: op.IsCreatedNotify(), nextRevision: op.Rev(),
		// As large as client/v3's own.
		out: make(chan clientv3.WatchResponse, 1),
	}
}

// open opens watches of the base Watcher until one is created. If none can be, it returns the last
// response for the caller, or nil if client/v3 sent none.
func (w *retryingWatch) open() (last *clientv3.WatchResponse, ok bool) {
	for {
		lock := w.watcher.lockStream(w.ctx, w.stream)
		if lock == nil {
			return nil, false
		}
		w.current = lock.openWatch(w.ctx, w.watcher, w.key, append(w.opts, clientv3.WithRev(w.nextRevision), clientv3.WithCreatedNotify()))
		if w.current == nil {
			return nil, false
		}
		r := w.current.first
		switch {
		case r == nil:
			w.release()
			return nil, false
		case r.Err() == nil:
			w.noteCreated(r)
			return nil, true
		case !w.shouldReopen(r):
			w.release()
			if w.isDone() {
				r = nil
			}
			return r, false
		}
	}
}

// noteCreated records the creation of a watch.
func (w *retryingWatch) noteCreated(r *clientv3.WatchResponse) {
	w.refusals = 0
	if w.nextRevision == 0 {
		w.nextRevision = r.Header.GetRevision() + 1
	}
	if w.createdNotify {
		w.createdNotify = false
		w.out <- *r // does not block: it is the first
	}
}

// isDone reports whether the caller or the watcher has ended.
func (w *retryingWatch) isDone() bool { return w.ctx.Err() != nil || w.watcher.ctx.Err() != nil }

// release ends the current watch.
func (w *retryingWatch) release() { w.current.lock.endWatch(w.watcher, w.current) }

// shouldReopen reports whether to open another watch after one that ended with r. It waits if the
// one before was refused too.
func (w *retryingWatch) shouldReopen(r *clientv3.WatchResponse) bool {
	if !tokenRefused(r) || w.refusals >= w.watcher.engine.Policy.MaxAttempts {
		return false
	}
	// No effect if the creation was refused: it has done so.
	w.watcher.retire(w.current.lock.generation)
	w.refusals++
	if w.refusals > 1 && !w.pause() {
		return false
	}
	w.release()
	return true
}

func (w *retryingWatch) pause() bool {
	if w.backoff == nil {
		w.backoff = w.watcher.engine.Policy.Backoff()
		w.backoff.Reset()
	}
	timer := time.NewTimer(w.backoff.NextBackOff())
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.ctx.Done():
	case <-w.watcher.ctx.Done():
	}
	return false
}

// run delivers responses until the watch ends permanently.
func (w *retryingWatch) run() {
	defer close(w.out)
	for {
		r, ok := w.receive()
		if !ok {
			w.release()
			return
		}
		if r.Err() != nil && w.shouldReopen(&r) {
			last, ok := w.open()
			if ok {
				continue
			}
			if last != nil {
				w.deliver(*last)
			}
			return
		}
		w.advance(&r)
		if !w.deliver(r) || r.Err() != nil {
			w.release()
			return
		}
	}
}

func (w *retryingWatch) receive() (r clientv3.WatchResponse, ok bool) {
	select {
	case r, ok = <-w.current.responses:
	case <-w.ctx.Done():
	case <-w.watcher.ctx.Done():
	}
	return r, ok
}

func (w *retryingWatch) deliver(r clientv3.WatchResponse) bool {
	select {
	case w.out <- r:
		return true
	case <-w.ctx.Done():
	case <-w.watcher.ctx.Done():
	}
	return false
}

// advance records the position of the caller after r.
func (w *retryingWatch) advance(r *clientv3.WatchResponse) {
	switch n := len(r.Events); {
	case n > 0:
		w.nextRevision = max(w.nextRevision, r.Events[n-1].Kv.ModRevision+1)
	case r.IsProgressNotify():
		w.nextRevision = max(w.nextRevision, r.Header.GetRevision()+1)
	}
}

// tokenRefused reports whether a watch ended, or was not created, because etcd no longer accepts
// the token of its stream.
func tokenRefused(r *clientv3.WatchResponse) bool {
	err := r.Err()
	if err == nil {
		return false
	}
	class, _ := retry.Classify(err, false)
	return class == retry.InvalidToken
}
