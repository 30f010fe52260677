package discovery

import (
	"context"
	"log/slog"
	"maps"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/notify"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/watch"
)

// view is a service's watch and its instances, shared by everything that follows the service.
type view struct {
	service    string
	dir        string
	layout     layout
	onBadEntry func(key string, rev int64, err error)
	log        *slog.Logger
	watch      *dirWatch
	stop       context.CancelFunc
	tracked    *scope.Part
	current    atomic.Pointer[snapshot] // never nil

	mu            sync.Mutex // guards the fields below
	records       table
	malformed     map[string]struct{} // entries that cannot be decoded
	lossGuard     lossGuard
	seen          map[string]struct{} // IDs in the state that a new watch delivers; nil once it is complete
	pendingLosses map[string]struct{} // IDs of instances lost since the last batch without More
	revision      int64
	partial       bool        // the rest of a revision is still to come
	timer         *time.Timer // set while lost instances stay in the list
	closed        bool
	followers     map[chan struct{}]struct{}
	updates       uint64
	malformedSeen uint64

	users int // guarded by the registry
}

// snapshot is an immutable list of instances.
type snapshot struct {
	list []*Instance // sorted by ID
}

func newView(w *watch.Watcher, service string, opts *options) *view {
	dir := opts.layout.dir(service)
	v := &view{
		service: service, dir: dir, layout: opts.layout, onBadEntry: opts.onBadEntry, log: opts.logger,
		records: newTable(), malformed: map[string]struct{}{}, followers: map[chan struct{}]struct{}{},
		lossGuard: lossGuard{period: opts.grace},
	}
	v.current.Store(&snapshot{})
	v.watch = newDirWatch(w, dir, opts.logger, v, false)
	return v
}

// close ends the watch and waits for it.
func (v *view) close() {
	v.stop()
	<-v.watch.Ended()
	v.mu.Lock()
	v.closed = true
	if v.timer != nil {
		v.timer.Stop()
	}
	v.mu.Unlock()
	v.tracked.Close()
}

// onStart prepares for a new watch, which delivers the whole state.
func (v *view) onStart() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seen, v.pendingLosses = map[string]struct{}{}, map[string]struct{}{}
}

// onBatch applies a batch.
func (v *view) onBatch(b watch.Batch) {
	var report []func()
	defer func() {
		for _, f := range report { // after the lock is released
			f()
		}
	}()
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range b.Events {
		id := strings.TrimPrefix(e.Key, v.dir)
		if e.Type == watch.Delete {
			delete(v.seen, id)
			v.markLost(id)
			continue
		}
		if v.seen != nil {
			v.seen[id] = struct{}{}
		}
		i, err := v.layout.decode(v.service, id, e.Value)
		if err != nil {
			v.malformed[id] = struct{}{}
			v.malformedSeen++
			report = append(report, func() { v.reportBadEntry(e.Key, e.ModRevision, err) })
			continue
		}
		delete(v.malformed, id)
		delete(v.pendingLosses, id)
		v.records.set(id, &entry{Instance: i})
	}
	if v.partial = b.More; !v.partial {
		v.commit(b)
	}
}

// reportBadEntry logs and reports an entry that cannot be decoded.
func (v *view) reportBadEntry(key string, rev int64, err error) {
	v.log.Warn("skipping a bad entry", "key", errs.Short(key), "revision", rev, "error", err)
	if v.onBadEntry == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil { // a panic would end the watch
			v.log.Error("bad entry callback panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	v.onBadEntry(key, rev, err)
}

// markLost records that an instance's key is gone.
func (v *view) markLost(id string) {
	delete(v.malformed, id)
	if e := v.records.entries[id]; e != nil && e.held.IsZero() {
		v.pendingLosses[id] = struct{}{}
	}
}

// commit publishes the changes since the last commit.
func (v *view) commit(b watch.Batch) {
	if v.seen != nil {
		for id := range v.records.entries {
			if _, found := v.seen[id]; !found {
				v.markLost(id)
			}
		}
		maps.DeleteFunc(v.malformed, func(id string, _ struct{}) bool { _, found := v.seen[id]; return !found })
	}
	v.applyLosses(loss{bulk: v.seen != nil || b.Kind != watch.Live, otherHistory: b.Revision < v.revision})
	clear(v.pendingLosses)
	v.seen, v.revision = nil, b.Revision
	v.updates++
	v.publish()
}

// applyLosses removes lost instances. If the loss guard finds the loss suspicious, it keeps them in
// the list for the guard's period instead.
func (v *view) applyLosses(l loss) {
	now := time.Now()
	before := v.records.present()
	for id := range v.pendingLosses {
		if v.records.entries[id].up() {
			l.ids = append(l.ids, id)
		} else { // it was draining
			v.records.set(id, nil)
		}
	}
	v.lossGuard.forget(before - v.records.present())
	l.left = v.records.present() - len(l.ids)
	if len(l.ids) > 0 && v.lossGuard.shouldHold(l, now) {
		v.log.Warn("holding back a sudden loss", "service", v.service, "lost", len(l.ids), "left", l.left)
		for _, id := range l.ids {
			v.records.set(id, &entry{Instance: v.records.entries[id].Instance, held: now.Add(v.lossGuard.period)})
		}
		v.scheduleExpiry(v.lossGuard.period)
	} else {
		for _, id := range l.ids {
			v.records.set(id, nil)
		}
	}
	v.lossGuard.record(l.left, now)
}

// scheduleExpiry calls expire after d. If a timer is already running, its call of expire schedules
// the next one.
func (v *view) scheduleExpiry(d time.Duration) {
	if v.timer == nil {
		v.timer = time.AfterFunc(d, v.expire)
	}
}

// expire removes the held instances whose time is up.
func (v *view) expire() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	v.timer = nil
	now, next := time.Now(), time.Time{}
	for id, e := range v.records.entries {
		switch {
		case e.held.IsZero():
		case !e.held.After(now):
			v.records.set(id, nil)
		case next.IsZero() || e.held.Before(next):
			next = e.held
		}
	}
	if !next.IsZero() {
		v.scheduleExpiry(next.Sub(now))
	}
	if !v.partial {
		v.publish()
	}
}

// publish replaces the snapshot and notifies followers if the instances have changed.
func (v *view) publish() {
	list, differs := v.records.merge(v.current.Load().list)
	if !differs {
		return
	}
	v.current.Store(&snapshot{list: list})
	for changed := range v.followers {
		notify.Token(changed)
	}
}

// follow makes publish notify a channel of capacity 1.
func (v *view) follow(changed chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.followers[changed] = struct{}{}
}

func (v *view) unfollow(changed chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.followers, changed)
}
