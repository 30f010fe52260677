package lock

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keywatch"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// checkInterval is how often a waiter reads the queue although no watch has reported a change, ±20
// %. It bounds the delay after a watch that fails without an error, and after the deletion of a
// waiter's own key.
const checkInterval = 30 * time.Second

// pollThreshold is how long a watch may take to open before the queue is polled.
const pollThreshold = 500 * time.Millisecond

// queueWatch is the set of watches of one waiter or observer of a queue. It belongs to one
// goroutine. mu guards what the watches report.
type queueWatch struct {
	q      *queue
	notify chan struct{} // of capacity 1
	poller *poller       // the poll of the queue, if it has joined that

	mu      sync.Mutex
	targets map[keywatch.Target]*targetWatch
}

// targetWatch is one watch and what it has reported.
type targetWatch struct {
	w *queueWatch

	isOpen   bool
	openRev  int64 // every change after it is reported
	relevant map[string]bool
	changed  map[string]int64 // by key: revision of the latest change
	lastPut  *mvccpb.KeyValue // the latest put
	err      error            // why it can never open
}

func (q *queue) newWatch() *queueWatch {
	return &queueWatch{q: q, notify: make(chan struct{}, 1), targets: map[keywatch.Target]*targetWatch{}}
}

// setTargets replaces the watched targets. A watch on a target that stays is kept. If relevant is
// not nil, only changes of its keys count.
func (w *queueWatch) setTargets(targets []keywatch.Target, relevant map[string]bool) {
	var added []*targetWatch
	w.mu.Lock()
	removed := maps.Clone(w.targets)
	addedTargets := make([]keywatch.Target, 0, len(targets))
	for _, t := range targets {
		k := w.targets[t]
		if k == nil {
			k = &targetWatch{w: w, changed: map[string]int64{}}
			w.targets[t] = k
			added, addedTargets = append(added, k), append(addedTargets, t)
		}
		k.relevant = relevant
		delete(removed, t)
	}
	for t := range removed {
		delete(w.targets, t)
	}
	w.mu.Unlock()
	for i, k := range added { // without w.mu: the watcher calls k with its own lock held
		w.q.l.keyWatcher.Watch(addedTargets[i], k)
	}
	for t, k := range removed {
		w.q.l.keyWatcher.Unwatch(t, k)
	}
}

// close ends all watches.
func (w *queueWatch) close() {
	w.setTargets(nil, nil)
	w.setPolling(false)
}

// setPolling joins or leaves the poll of the queue.
func (w *queueWatch) setPolling(on bool) {
	switch {
	case on == (w.poller != nil):
	case on:
		w.poller = w.q.sharedPoller()
		w.poller.join()
	default:
		w.poller.release()
		w.poller = nil
	}
}

// state returns what the watches have reported since a revision: whether there was a change,
// whether all watches are open, and the revision after which every change is reported.
func (w *queueWatch) state(since int64) (changed, open bool, rev int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	open = true
	for _, k := range w.targets {
		if k.err != nil {
			return false, false, 0, k.err
		}
		open = open && k.isOpen
		rev = max(rev, k.openRev)
		for key, at := range k.changed {
			switch {
			case at <= since:
				delete(k.changed, key)
			case k.relevant == nil || k.relevant[key]:
				changed = true
			}
		}
	}
	return changed, open, rev, nil
}

// lastPut returns the latest put that the watch of a target has reported, or nil.
func (w *queueWatch) lastPut(t keywatch.Target) *mvccpb.KeyValue {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k := w.targets[t]; k != nil {
		return k.lastPut
	}
	return nil
}

// await waits until what is watched may have changed since revision *since. If it returns nil, the
// caller must read the queue. If the queue was polled meanwhile, it returns the page that was read.
//
// Changes after *since are reported, unless the watch was opened at a later revision. In that case
// confirm checks for a change in between, and await raises *since to the revision that it returns.
func (w *queueWatch) await(
	ctx context.Context, since *int64, confirm func(context.Context) (unchanged bool, rev int64, err error),
) (polled *queuePage, err error) {
	checkTimer := time.NewTimer(jitter(w.q.l.checkInterval))
	defer checkTimer.Stop()
	openTimer := time.NewTimer(pollThreshold)
	defer openTimer.Stop()
	backoffs := newBackoff(maxBackoff)
	wasOpen := false
	for {
		changed, open, rev, err := w.state(*since)
		switch {
		case err != nil || changed:
			return nil, err
		case open && rev > *since:
			unchanged, now, err := confirm(ctx)
			switch {
			case err == nil && (!unchanged || now < rev):
				// A revision that falls belongs to another history.
				return nil, nil //nolint:nilnil // the caller reads the queue
			case err == nil:
				*since = now
			case ctx.Err() != nil || isPermanent(err):
				return nil, err
			default:
				_ = retry.Sleep(ctx, backoffs.NextBackOff())
			}
			continue
		case open:
			w.setPolling(false)
		case wasOpen:
			openTimer.Reset(pollThreshold)
		}
		wasOpen = open
		var updated <-chan struct{}
		if w.poller != nil {
			var p *queuePage
			if p, updated = w.poller.newer(*since); p != nil {
				return p, nil
			}
		}
		select {
		case <-w.notify:
		case <-updated:
		case <-checkTimer.C:
			return nil, nil //nolint:nilnil // the caller reads the queue
		case <-openTimer.C:
			if !open {
				w.setPolling(true)
			}
		case <-ctx.Done():
			return nil, retry.ContextError(ctx)
		}
	}
}

// requireCheck is a confirm function that makes the caller read the queue.
func (w *queueWatch) requireCheck(context.Context) (unchanged bool, rev int64, err error) {
	w.q.l.counters.confirmed.Add(1)
	return false, 0, nil
}

func (k *targetWatch) notify() {
	select {
	case k.w.notify <- struct{}{}:
	default:
	}
}

// Opened implements [keywatch.Handler].
func (k *targetWatch) Opened(rev int64) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	k.isOpen, k.openRev = true, rev
	k.notify()
}

// Changed implements [keywatch.Handler].
func (k *targetWatch) Changed(ev *mvccpb.Event) {
	key := string(ev.Kv.GetKey())
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	if !isDirectChild(k.w.q.prefix, key) {
		return // a key of a longer name
	}
	k.changed[key] = ev.Kv.GetModRevision()
	if ev.Type == mvccpb.Event_PUT {
		k.lastPut = ev.Kv
	}
	k.notify()
}

// Lost implements [keywatch.Handler].
func (k *targetWatch) Lost(err error) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	k.isOpen = false
	if errors.Is(err, errs.Permission) || errors.Is(err, errs.Closed) {
		k.err = err
	}
	k.notify()
}

// jitter varies d by ±20 %, so that processes with the same interval do not act together.
func jitter(d time.Duration) time.Duration {
	return time.Duration((0.8 + 0.4*rand.Float64()) * float64(d))
}
