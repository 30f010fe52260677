package raw

import (
	"context"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// feed is one watch of a caller: one watch below after another, of which he sees one.
type feed struct {
	w      *watcher
	ctx    context.Context //nolint:containedctx // the caller's, that the watch lives by
	stream string
	key    string
	opts   []clientv3.OpOption
	told   bool // the caller wants to be told of the creation
	out    chan clientv3.WatchResponse

	below   *watch
	next    int64 // the first revision that was not delivered, 0 for what comes after the creation
	refused int   // how often in a row
	waits   backoff.BackOff
}

func newFeed(ctx context.Context, w *watcher, key string, opts []clientv3.OpOption) *feed {
	op := clientv3.OpWatch(key, opts...) // panics where client/v3 does
	return &feed{
		w: w, ctx: ctx, stream: streamOf(ctx), key: key, opts: slices.Clip(opts),
		told: op.IsCreatedNotify(), next: op.Rev(),
		// As large as client/v3's own.
		out: make(chan clientv3.WatchResponse, 1),
	}
}

// open opens watches below until one was created. Else it returns what to tell the caller, nil
// where client/v3 says nothing.
func (f *feed) open() (why *clientv3.WatchResponse, ok bool) {
	for {
		lane := f.w.enter(f.ctx, f.stream)
		if lane == nil {
			return nil, false
		}
		f.below = lane.create(f.ctx, f.w, f.key, append(f.opts, clientv3.WithRev(f.next), clientv3.WithCreatedNotify()))
		if f.below == nil {
			return nil, false
		}
		r := f.below.first
		switch {
		case r == nil:
			f.close()
			return nil, false
		case r.Err() == nil:
			f.begin(r)
			return nil, true
		case !f.again(r):
			f.close()
			if f.over() {
				r = nil
			}
			return r, false
		}
	}
}

// begin takes note of a creation.
func (f *feed) begin(r *clientv3.WatchResponse) {
	f.refused = 0
	if f.next == 0 {
		f.next = r.Header.GetRevision() + 1
	}
	if f.told {
		f.told = false
		f.out <- *r // there is room: it is the first
	}
}

// over reports whether nobody wants the watch any more.
func (f *feed) over() bool { return f.ctx.Err() != nil || f.w.life.Err() != nil }

// close lets go of the watch below.
func (f *feed) close() { f.below.lane.end(f.w, f.below) }

// again reports whether to open another watch after one that ended with r. It waits where the last
// one was for nothing.
func (f *feed) again(r *clientv3.WatchResponse) bool {
	if !tokenRefused(r) || f.refused >= f.w.engine.Policy.MaxAttempts {
		return false
	}
	f.w.retire(f.below.lane.on) // if the watch was refused when it was created this is done already
	f.refused++
	if f.refused > 1 && !f.pause() {
		return false
	}
	f.close()
	return true
}

func (f *feed) pause() bool {
	if f.waits == nil {
		f.waits = f.w.engine.Policy.Backoff()
		f.waits.Reset()
	}
	timer := time.NewTimer(f.waits.NextBackOff())
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-f.ctx.Done():
	case <-f.w.life.Done():
	}
	return false
}

// run hands on what comes until the watch ends for good.
func (f *feed) run() {
	defer close(f.out)
	for {
		r, ok := f.receive()
		if !ok {
			f.close()
			return
		}
		if r.Err() != nil && f.again(&r) {
			why, ok := f.open()
			if ok {
				continue
			}
			if why != nil {
				f.deliver(*why)
			}
			return
		}
		f.note(&r)
		if !f.deliver(r) || r.Err() != nil {
			f.close()
			return
		}
	}
}

func (f *feed) receive() (r clientv3.WatchResponse, ok bool) {
	select {
	case r, ok = <-f.below.in:
	case <-f.ctx.Done():
	case <-f.w.life.Done():
	}
	return r, ok
}

func (f *feed) deliver(r clientv3.WatchResponse) bool {
	select {
	case f.out <- r:
		return true
	case <-f.ctx.Done():
	case <-f.w.life.Done():
	}
	return false
}

// note remembers how far the caller will be once he has r.
func (f *feed) note(r *clientv3.WatchResponse) {
	switch n := len(r.Events); {
	case n > 0:
		f.next = max(f.next, r.Events[n-1].Kv.ModRevision+1)
	case r.IsProgressNotify():
		f.next = max(f.next, r.Header.GetRevision()+1)
	}
}

// tokenRefused reports whether a watch was ended, or not created, because of the token of its
// stream.
func tokenRefused(r *clientv3.WatchResponse) bool {
	err := r.Err()
	if err == nil {
		return false
	}
	class, _ := retry.Classify(err, false)
	return class == retry.InvalidToken
}
