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
	"github.com/etcdkit/etcdkit/watch"
)

// view is what all who follow a service share: one watch, and the instances that it has told of.
type view struct {
	service string
	dir     string
	layout  layout
	onBad   func(key string, rev int64, err error)
	log     *slog.Logger
	feed    *feed
	stop    context.CancelFunc
	now     atomic.Pointer[snapshot] // never nil

	mu       sync.Mutex // of what follows
	records  table
	bad      map[string]struct{} // that are there and cannot be used
	grace    grace
	fresh    map[string]struct{} // of a watch that has begun: what it has told of; nil when it has told everything
	lost     map[string]struct{} // since the last batch without More
	revision int64
	partial  bool        // more of what has begun to be told of is to come
	timer    *time.Timer // until something is held back no longer
	closed   bool
	bells    map[chan struct{}]struct{}
	updates  uint64
	badSeen  uint64

	users int // belongs to the registry
}

// snapshot is the instances at one time. It does not change.
type snapshot struct {
	list []*Instance // by ID
}

func newView(w *watch.Watcher, service string, set *settings) *view {
	dir := set.layout.dir(service)
	v := &view{
		service: service, dir: dir, layout: set.layout, onBad: set.onBad, log: set.logger, feed: newFeed(w, dir, set.logger),
		records: newTable(), bad: map[string]struct{}{}, bells: map[chan struct{}]struct{}{},
		grace: grace{period: set.grace},
	}
	v.now.Store(&snapshot{})
	v.feed.begin, v.feed.handle = v.begin, v.handle
	return v
}

// end stops the watch and returns when nothing runs any more.
func (v *view) end() {
	v.stop()
	<-v.feed.ended
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	if v.timer != nil {
		v.timer.Stop()
	}
}

// begin prepares for a watch that tells of everything anew.
func (v *view) begin() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fresh, v.lost = map[string]struct{}{}, map[string]struct{}{}
}

// handle takes in a batch.
func (v *view) handle(b watch.Batch) {
	var report []func()
	defer func() {
		for _, f := range report { // without the lock
			f()
		}
	}()
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range b.Events {
		id := strings.TrimPrefix(e.Key, v.dir)
		if e.Type == watch.Delete {
			delete(v.fresh, id)
			v.gone(id)
			continue
		}
		if v.fresh != nil {
			v.fresh[id] = struct{}{}
		}
		i, err := v.layout.decode(v.service, id, e.Value)
		if err != nil {
			v.bad[id] = struct{}{}
			v.badSeen++
			report = append(report, func() { v.report(e.Key, e.ModRevision, err) })
			continue
		}
		delete(v.bad, id)
		delete(v.lost, id)
		v.records.set(id, &entry{Instance: i})
	}
	if v.partial = b.More; !v.partial {
		v.commit(b)
	}
}

// report tells of an entry that cannot be used.
func (v *view) report(key string, rev int64, err error) {
	v.log.Warn("discovery skips an entry", "key", errs.Short(key), "revision", rev, "error", err)
	if v.onBad == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil { // which would end the watch
			v.log.Error("the function given to with bad entry panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	v.onBad(key, rev, err)
}

// gone notes that a key is not there any more.
func (v *view) gone(id string) {
	delete(v.bad, id)
	if e := v.records.entries[id]; e != nil && e.held.IsZero() {
		v.lost[id] = struct{}{}
	}
}

// commit makes what has been taken in what is shown.
func (v *view) commit(b watch.Batch) {
	if v.fresh != nil {
		for id := range v.records.entries {
			if _, told := v.fresh[id]; !told {
				v.gone(id)
			}
		}
		maps.DeleteFunc(v.bad, func(id string, _ struct{}) bool { _, told := v.fresh[id]; return !told })
	}
	v.lose(loss{bulk: v.fresh != nil || b.Kind != watch.Live, otherHistory: b.Revision < v.revision})
	clear(v.lost)
	v.fresh, v.revision = nil, b.Revision
	v.updates++
	v.publish()
}

// lose removes what is gone, or holds it back.
func (v *view) lose(l loss) {
	now := time.Now()
	before := v.records.present()
	for id := range v.lost {
		if v.records.entries[id].up() {
			l.ids = append(l.ids, id)
		} else { // it had said that it would go
			v.records.set(id, nil)
		}
	}
	v.grace.left(before - v.records.present())
	l.left = v.records.present() - len(l.ids)
	if len(l.ids) > 0 && v.grace.holds(l, now) {
		v.log.Warn("discovery holds back a sudden loss", "service", v.service, "lost", len(l.ids), "left", l.left)
		for _, id := range l.ids {
			v.records.set(id, &entry{Instance: v.records.entries[id].Instance, held: now.Add(v.grace.period)})
		}
		v.expireIn(v.grace.period)
	} else {
		for _, id := range l.ids {
			v.records.set(id, nil)
		}
	}
	v.grace.are(l.left, now)
}

// expireIn removes what was held back when its time has come. Where that is to happen for something else already, it does so
// again after that.
func (v *view) expireIn(d time.Duration) {
	if v.timer == nil {
		v.timer = time.AfterFunc(d, v.expire)
	}
}

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
		v.expireIn(next.Sub(now))
	}
	if !v.partial {
		v.publish()
	}
}

// publish shows the instances, and wakes up who follows them, if they are not as they were.
func (v *view) publish() {
	list, differs := v.records.merge(v.now.Load().list)
	if !differs {
		return
	}
	v.now.Store(&snapshot{list: list})
	for bell := range v.bells {
		ring(bell)
	}
}

// follow has a bell rung whenever the instances may have changed.
func (v *view) follow(bell chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bells[bell] = struct{}{}
}

func (v *view) unfollow(bell chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.bells, bell)
}

// ring rings a bell that holds one.
func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}
