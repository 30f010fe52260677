package discovery

import (
	"context"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/etcdkit/etcdkit/internal/notify"
	"github.com/etcdkit/etcdkit/watch"
)

// serviceNames follows the names of all services.
type serviceNames struct {
	registry *Registry
	watch    *dirWatch

	mu       sync.Mutex
	services map[string]string // by key
	seen     map[string]string // services seen by a new watch; nil once it is complete
	names    []string
	complete bool // names are known
	notify   chan struct{}
}

// FollowServices calls f with the sorted names of all services that have an instance, once they are
// known and then after each change. Calls are made one at a time on a goroutine of their own; a
// slow f gets the latest names. After stop returns, no new call begins, but one may still be
// running; f itself may call stop. It also ends with the registry, whose Close waits for f.
//
// The names are those in etcd: unlike in a [Service], losses are not held back. It costs a streamed
// list, a server-side watch over all services, and memory for each instance's key. It is retried
// while etcd is unavailable. f is never called if the registry is closed.
func (r *Registry) FollowServices(f func(names []string)) (stop func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return func() {}
	}
	w := &serviceNames{registry: r, notify: make(chan struct{}, 1)}
	w.watch = newDirWatch(r.watcher, r.layout.top, r.logger, w, true)
	ctx, cancel := context.WithCancel(r.ctx)
	var calls sync.Mutex
	r.running.Go(func() { w.watch.Run(ctx) })
	r.running.Go(func() { w.run(ctx, f, &calls) })
	return func() {
		calls.Lock()
		defer calls.Unlock()
		cancel()
	}
}

// run calls f whenever the names have changed.
func (n *serviceNames) run(ctx context.Context, f func([]string), calls *sync.Mutex) {
	var last []string
	for first := true; ; {
		select {
		case <-n.notify:
		case <-ctx.Done():
			return
		}
		n.mu.Lock()
		names, whole := n.names, n.complete
		n.mu.Unlock()
		if !whole || !first && slices.Equal(last, names) {
			continue
		}
		first, last = false, names
		calls.Lock()
		active := ctx.Err() == nil
		calls.Unlock()
		if active {
			n.call(ctx, f, slices.Clone(names))
		}
	}
}

func (n *serviceNames) call(ctx context.Context, f func([]string), names []string) {
	defer func() {
		if v := recover(); v != nil {
			n.registry.logger.ErrorContext(ctx, "follow services callback panicked", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	f(names)
}

func (n *serviceNames) onStart() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = map[string]string{}
}

// onBatch applies a batch.
func (n *serviceNames) onBatch(b watch.Batch) {
	n.mu.Lock()
	defer n.mu.Unlock()
	into := n.seen
	if into == nil {
		into = n.services
	}
	for _, e := range b.Events {
		if service, ok := n.registry.serviceOf(e.Key, e.Value); ok && e.Type == watch.Put {
			into[e.Key] = service
		} else {
			delete(into, e.Key)
		}
	}
	if b.More {
		return
	}
	n.services, n.seen = into, nil
	found := map[string]struct{}{}
	for _, service := range n.services {
		found[service] = struct{}{}
	}
	n.names, n.complete = names(found), true
	notify.Token(n.notify)
}
