package keywatch

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/notify"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// Filter selects which changes a watch delivers.
type Filter int8

// The filters.
const (
	Changes   Filter = iota // all
	Deletions               // no puts
	Puts                    // no deletions
)

// Target is what a watch covers: one key, or, with Prefix, all keys that begin with Key.
type Target struct {
	Key    string
	Prefix bool
	Filter Filter
}

// end returns the end of the range of keys, or "" for a single key.
func (t Target) end() string {
	if !t.Prefix {
		return ""
	}
	return keyspace.End(t.Key)
}

// Handler receives the events of a watch. Its methods are called one at a time, with the watcher's
// lock held. They must return at once and must not call the watcher.
type Handler interface {
	// Opened reports that the watch is open. Every change after rev is delivered.
	Opened(rev int64)
	// Changed delivers a change.
	Changed(ev *mvccpb.Event)
	// Lost reports that the watch is not open. Changes are missed until it is opened again. If err
	// matches errs.Permission or errs.Closed, it is never opened again.
	Lost(err error)
}

// Watcher watches keys over one stream. It is safe for concurrent use.
type Watcher struct {
	cli      *clientv3.Client
	clientV3 bool

	ctx    context.Context //nolint:containedctx // lifetime of the streams
	cancel context.CancelFunc
	wg     sync.WaitGroup

	reopened atomic.Uint64

	mu                sync.Mutex
	closed            bool
	keepOpen          time.Duration
	idleProbeInterval time.Duration // how long a stream may be quiet before it is probed
	running           bool          // the goroutine that opens streams runs
	stream            *stream
	watches           map[Target]*keyWatch
	idleSince         time.Time // when the last watch ended; zero while there are any
}

// keyWatch is one watch on the server and the handlers that share it.
type keyWatch struct {
	target   Target
	handlers []Handler
	id       int64 // on the stream
	open     bool
	rev      int64              // changes after it are yet to be delivered
	cancel   context.CancelFunc // ends a watch over a Watcher that is not client/v3's own
}

// defaultKeepOpen is how long the stream is kept open after the last watch has ended.
const defaultKeepOpen = 30 * time.Second

// New returns a watcher over cli. It sends nothing. clientV3 says that cli's Watcher is client/v3's
// own. Any other Watcher is used through its Watch method, with a goroutine for each watch.
func New(cli *clientv3.Client, clientV3 bool) *Watcher {
	w := &Watcher{cli: cli, clientV3: clientV3, watches: map[Target]*keyWatch{}, keepOpen: defaultKeepOpen}
	// spreads the probes of many processes
	w.idleProbeInterval = time.Duration((0.8 + 0.4*rand.Float64()) * float64(idleProbeInterval))
	//nolint:forbidigo // what many callers share must not live by the context of one
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// KeepOpen sets how long the stream is kept open after the last watch has ended.
func (w *Watcher) KeepOpen(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keepOpen = d
}

// Watch watches t for h until Unwatch is called.
func (w *Watcher) Watch(t Target, h Handler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		h.Lost(errs.Closed)
		return
	}
	k := w.watches[t]
	if k == nil {
		k = &keyWatch{target: t}
		w.watches[t] = k
		w.idleSince = time.Time{}
		w.startWatch(k)
	}
	k.handlers = append(k.handlers, h)
	if k.open {
		h.Opened(k.rev)
	}
}

// startWatch requests a watch, on the stream if there is one. The caller holds w.mu.
func (w *Watcher) startWatch(k *keyWatch) {
	switch {
	case !w.clientV3:
		var ctx context.Context
		ctx, k.cancel = context.WithCancel(w.ctx)
		w.wg.Go(func() { w.serveUserWatcher(ctx, k) })
	case w.stream != nil:
		w.stream.requestWatch(k)
	case !w.running:
		w.running = true
		w.wg.Go(w.run)
	}
}

// Unwatch ends a watch of h. No method of h is called after it has returned. It does nothing if h
// does not watch t.
func (w *Watcher) Unwatch(t Target, h Handler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.watches[t]
	if k == nil {
		return
	}
	i := slices.Index(k.handlers, h)
	if i < 0 {
		return
	}
	k.handlers = slices.Delete(k.handlers, i, i+1)
	if len(k.handlers) > 0 {
		return
	}
	delete(w.watches, t)
	if len(w.watches) == 0 {
		w.idleSince = time.Now()
	}
	if k.cancel != nil {
		k.cancel()
	}
	if w.stream != nil {
		if k.open {
			w.stream.cancelWatch(k)
		}
		notify.Token(w.stream.wake) // it may be unused now
	}
}

// Open returns the number of open watches.
func (w *Watcher) Open() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.watches {
		if k.open {
			n++
		}
	}
	return n
}

// Reopened returns how many streams broke or could not be opened.
func (w *Watcher) Reopened() uint64 { return w.reopened.Load() }

// Close ends all watches and waits for the goroutines.
func (w *Watcher) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.cancel()
	w.wg.Wait()
	w.notifyLost(errs.Closed)
}

// notifyLost reports to all handlers that their watches are not open.
func (w *Watcher) notifyLost(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stream = nil
	for _, k := range w.watches {
		k.notifyLost(err)
	}
}

func (k *keyWatch) notifyLost(err error) {
	k.open = false
	for _, h := range k.handlers {
		h.Lost(err)
	}
}

func (k *keyWatch) notifyOpened(rev int64) {
	k.open, k.rev = true, rev
	for _, h := range k.handlers {
		h.Opened(rev)
	}
}

func (k *keyWatch) notifyChanged(ev *mvccpb.Event) {
	k.rev = max(k.rev, ev.Kv.ModRevision)
	for _, h := range k.handlers {
		h.Changed(ev)
	}
}

// The pauses between streams.
const (
	minBackoff    = 50 * time.Millisecond
	maxBackoff    = 5 * time.Second
	minStableTime = time.Minute // a stream that lasted longer resets the backoff
)

// run opens one stream after the other as long as there are watches.
func (w *Watcher) run() {
	backoff := retry.Policy{BaseDelay: minBackoff, MaxDelay: maxBackoff}.Backoff()
	backoff.Reset()
	for {
		start := time.Now()
		err := w.serve()
		if w.finish() {
			return
		}
		w.reopened.Add(1)
		w.notifyLost(err)
		if time.Since(start) > minStableTime {
			backoff.Reset()
		}
		if !w.sleep(w.ctx, backoff.NextBackOff()) {
			w.finish()
			return
		}
	}
}

// finish reports whether no further stream is needed, and records that run ends.
func (w *Watcher) finish() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.ctx.Err() != nil || len(w.watches) == 0:
	case w.cli.Ctx().Err() != nil:
		for _, k := range w.watches {
			k.notifyLost(errs.Closed)
		}
		w.closed = true
	default:
		return false
	}
	w.running, w.stream = false, nil
	return true
}

// sleep waits for d, and reports whether neither ctx nor the client has ended.
func (w *Watcher) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-w.cli.Ctx().Done():
	}
	return false
}
