package discovery

import (
	"context"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/etcdkit/etcdkit/watch"
)

// serviceNames is the names of all services, as a watch tells of them.
type serviceNames struct {
	registry *Registry
	watch    *retryingWatch

	mu       sync.Mutex
	services map[string]string // the service of each key
	seen     map[string]string // of a watch that has begun: what it has told of; nil when it has told everything
	names    []string
	complete bool // names were known at least once
	notify   chan struct{}
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
	if r.optionsErr != nil || r.closed {
		return func() {}
	}
	w := &serviceNames{registry: r, watch: newRetryingWatch(r.watcher, r.layout.top, r.logger), notify: make(chan struct{}, 1)}
	w.watch.onStart, w.watch.onBatch = w.onStart, w.onBatch
	ctx, cancel := context.WithCancel(r.ctx)
	var calls sync.Mutex
	r.running.Go(func() {
		wait := newBackoff()
		for ctx.Err() == nil { // a watch that has never been live is tried again, too
			w.watch.run(ctx)
			w.watch.ended = make(chan struct{})
			pause(ctx, wait.NextBackOff())
		}
	})
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
		begin := ctx.Err() == nil
		calls.Unlock()
		if begin {
			n.call(ctx, f, slices.Clone(names))
		}
	}
}

func (n *serviceNames) call(ctx context.Context, f func([]string), names []string) {
	defer func() {
		if v := recover(); v != nil {
			n.registry.logger.ErrorContext(ctx, "a function given to follow services panicked", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	f(names)
}

func (n *serviceNames) onStart() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = map[string]string{}
}

// onBatch takes in a batch.
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
	notify(n.notify)
}
