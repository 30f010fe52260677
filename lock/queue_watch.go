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

// lookInterval is how often whoever waits looks at the queue although no watch has told of a change, ±20 %. A watch that has
// gone silent without anybody noticing, and a waiter whose own key was deleted, cost that much at most.
const lookInterval = 30 * time.Second

// pollAfter is how long a watch may take to open before the queue is polled.
const pollAfter = 500 * time.Millisecond

// queueWatch is what somebody who waits in a queue, or for one, watches of it. It belongs to one goroutine; what the watches
// tell it is guarded by mu.
type queueWatch struct {
	q       *queue
	notify  chan struct{} // holds 1
	polling *poller       // nil while it does not poll

	mu   sync.Mutex
	keys map[keywatch.Target]*watchedKey
}

// watchedKey is one watch, and what it has told.
type watchedKey struct {
	w *queueWatch

	open     bool
	rev      int64 // every change after it is told
	relevant map[string]bool
	changed  map[string]int64 // by key: the revision of its latest change
	put      *mvccpb.KeyValue // the latest put
	err      error            // it can never be open
}

func (q *queue) newWatch() *queueWatch {
	return &queueWatch{q: q, notify: make(chan struct{}, 1), keys: map[keywatch.Target]*watchedKey{}}
}

// set makes the given targets those that are watched. A watch that is there already goes on. If relevant is not nil, changes of
// other keys do not count.
func (w *queueWatch) set(targets []keywatch.Target, relevant map[string]bool) {
	var fresh []*watchedKey
	w.mu.Lock()
	stale := maps.Clone(w.keys)
	added := make([]keywatch.Target, 0, len(targets))
	for _, t := range targets {
		k := w.keys[t]
		if k == nil {
			k = &watchedKey{w: w, changed: map[string]int64{}}
			w.keys[t] = k
			fresh, added = append(fresh, k), append(added, t)
		}
		k.relevant = relevant
		delete(stale, t)
	}
	for t := range stale {
		delete(w.keys, t)
	}
	w.mu.Unlock()
	for i, k := range fresh { // without the lock: the watcher calls k with its own held
		w.q.l.keys.Watch(added[i], k)
	}
	for t, k := range stale {
		w.q.l.keys.Unwatch(t, k)
	}
}

// close ends all watches.
func (w *queueWatch) close() {
	w.set(nil, nil)
	w.poll(false)
}

// poll joins or leaves the poll of the queue.
func (w *queueWatch) poll(on bool) {
	switch {
	case on == (w.polling != nil):
	case on:
		w.polling = w.q.poll()
	default:
		w.polling.leave()
		w.polling = nil
	}
}

// state is what the watches have told since the revision seen: whether something has changed, whether all of them are open, and
// after which revision every change is told.
func (w *queueWatch) state(seen int64) (changed, open bool, rev int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	open = true
	for _, k := range w.keys {
		if k.err != nil {
			return false, false, 0, k.err
		}
		open = open && k.open
		rev = max(rev, k.rev)
		for key, at := range k.changed {
			switch {
			case at <= seen:
				delete(k.changed, key)
			case k.relevant == nil || k.relevant[key]:
				changed = true
			}
		}
	}
	return changed, open, rev, nil
}

// lastPut is the latest put that the watch of a target has told of, nil if there was none.
func (w *queueWatch) lastPut(t keywatch.Target) *mvccpb.KeyValue {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k := w.keys[t]; k != nil {
		return k.put
	}
	return nil
}

// await waits until what is watched may have changed since the revision seen; then the caller has to look. Every change after
// seen is told of, or a watch was opened after it: then confirm finds out whether there was a change in between, and raises seen. If
// the queue had to be polled instead, it returns what was read.
func (w *queueWatch) await(
	ctx context.Context, seen *int64, confirm func(context.Context) (unchanged bool, rev int64, err error),
) (polled *page, err error) {
	look := time.NewTimer(jitter(w.q.l.lookInterval))
	defer look.Stop()
	unopened := time.NewTimer(pollAfter)
	defer unopened.Stop()
	pauses := newBackoff(maxBackoff)
	wasOpen := false
	for {
		changed, open, rev, err := w.state(*seen)
		switch {
		case err != nil || changed:
			return nil, err
		case open && rev > *seen:
			unchanged, now, err := confirm(ctx)
			switch {
			case err == nil && (!unchanged || now < rev): // a revision that falls is of another history
				return nil, nil //nolint:nilnil // the caller looks
			case err == nil:
				*seen = now
			case ctx.Err() != nil || permanent(err):
				return nil, err
			default:
				sleep(ctx, pauses.NextBackOff())
			}
			continue
		case open:
			w.poll(false)
		case wasOpen:
			unopened.Reset(pollAfter)
		}
		wasOpen = open
		var read <-chan struct{}
		if w.polling != nil {
			var p *page
			if p, read = w.polling.newer(*seen); p != nil {
				return p, nil
			}
		}
		select {
		case <-w.notify:
		case <-read:
		case <-look.C:
			return nil, nil //nolint:nilnil // the caller looks
		case <-unopened.C:
			if !open {
				w.poll(true)
			}
		case <-ctx.Done():
			return nil, retry.ContextError(ctx)
		}
	}
}

// lookAgain is a confirm that leaves it to the caller to look.
func (w *queueWatch) lookAgain(context.Context) (unchanged bool, rev int64, err error) {
	w.q.l.counts.confirmed.Add(1)
	return false, 0, nil
}

func (k *watchedKey) tell() {
	select {
	case k.w.notify <- struct{}{}:
	default:
	}
}

// Opened is for the watcher.
func (k *watchedKey) Opened(rev int64) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	k.open, k.rev = true, rev
	k.tell()
}

// Changed is for the watcher.
func (k *watchedKey) Changed(ev *mvccpb.Event) {
	key := string(ev.Kv.GetKey())
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	if !direct(k.w.q.prefix, key) {
		return // of a longer name
	}
	k.changed[key] = ev.Kv.GetModRevision()
	if ev.Type == mvccpb.Event_PUT {
		k.put = ev.Kv
	}
	k.tell()
}

// Lost is for the watcher.
func (k *watchedKey) Lost(err error) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	k.open = false
	if errors.Is(err, errs.Permission) || errors.Is(err, errs.Closed) {
		k.err = err
	}
	k.tell()
}

// jitter spreads what many do by the same interval: ±20 %.
func jitter(d time.Duration) time.Duration {
	return time.Duration((0.8 + 0.4*rand.Float64()) * float64(d))
}
