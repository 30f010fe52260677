package discovery

import (
	"context"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/etcdkit/etcdkit/watch"
)

// roll is the names of all services, as a watch tells of them.
type roll struct {
	r *Registry
	f *feed

	mu    sync.Mutex
	of    map[string]string // the service of each key
	fresh map[string]string // of a watch that has begun: what it has told of; nil when it has told everything
	names []string
	whole bool // names were known at least once
	bell  chan struct{}
}

// FollowServices calls f with the names of all services that have an instance, in order: as soon as they are known, and
// then after each change, one at a time, in a goroutine of its own. A slow f is told of the latest. No call begins after
// stop has returned; one may still run, and f itself may call stop. It ends with the registry too, whose Close waits for f.
//
// It is told of what is in etcd: nothing is held back, as [Service] does. It costs a streamed list, a server-side watch below all services, and memory for the key of each instance. It goes on for
// as long as it takes when etcd is away. On a registry that is closed or of no use f is never called.
func (r *Registry) FollowServices(f func(names []string)) (stop func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bad != nil || r.closed {
		return func() {}
	}
	w := &roll{r: r, f: newFeed(r.watcher, r.layout.top, r.logger), bell: make(chan struct{}, 1)}
	w.f.begin, w.f.handle = w.begin, w.handle
	ctx, cancel := context.WithCancel(r.life)
	var calls sync.Mutex
	r.running.Go(func() {
		wait := newBackoff()
		for ctx.Err() == nil { // a watch that has never been live is tried again, too
			w.f.run(ctx)
			w.f.ended = make(chan struct{})
			pause(ctx, wait.NextBackOff())
		}
	})
	r.running.Go(func() { w.tell(ctx, f, &calls) })
	return func() {
		calls.Lock()
		defer calls.Unlock()
		cancel()
	}
}

// tell calls f whenever the names have changed.
func (w *roll) tell(ctx context.Context, f func([]string), calls *sync.Mutex) {
	var last []string
	for first := true; ; {
		select {
		case <-w.bell:
		case <-ctx.Done():
			return
		}
		w.mu.Lock()
		names, whole := w.names, w.whole
		w.mu.Unlock()
		if !whole || !first && slices.Equal(last, names) {
			continue
		}
		first, last = false, names
		calls.Lock()
		begin := ctx.Err() == nil
		calls.Unlock()
		if begin {
			w.call(ctx, f, slices.Clone(names))
		}
	}
}

func (w *roll) call(ctx context.Context, f func([]string), names []string) {
	defer func() {
		if v := recover(); v != nil {
			w.r.logger.ErrorContext(ctx, "a function given to follow services panicked", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	f(names)
}

func (w *roll) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fresh = map[string]string{}
}

// handle takes in a batch.
func (w *roll) handle(b watch.Batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	into := w.fresh
	if into == nil {
		into = w.of
	}
	for _, e := range b.Events {
		if service, ok := w.r.serviceOf(e.Key, e.Value); ok && e.Type == watch.Put {
			into[e.Key] = service
		} else {
			delete(into, e.Key)
		}
	}
	if b.More {
		return
	}
	w.of, w.fresh = into, nil
	found := map[string]struct{}{}
	for _, service := range w.of {
		found[service] = struct{}{}
	}
	w.names, w.whole = names(found), true
	ring(w.bell)
}
