package discovery

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

// Client is what a registry needs of a client, which *etcdkit.Client has. The parts are of the same namespace.
type Client interface {
	KV() *kv.Store
	Watcher() *watch.Watcher
	Leases() *lease.Manager
}

// Registry registers instances and finds those of others. It is safe for concurrent use, and belongs to whoever made it.
type Registry struct {
	options

	store      *kv.Store
	watcher    *watch.Watcher
	leases     *lease.Manager
	optionsErr error // what is wrong with the options or the client

	ctx    context.Context //nolint:containedctx // of everything that the registry has begun
	cancel context.CancelCauseFunc

	mu            sync.Mutex
	closed        bool
	byKey         map[string]*Registration // by key
	registrations map[*Registration]struct{}
	views         map[string]*view
	services      map[*Service]struct{}
	running       sync.WaitGroup // followers of names, and resolvers; does not grow once closed
	closeOnce     sync.Once
	closeErr      error
}

// New returns a registry over the parts of a client. It sends nothing. What is wrong with the options is returned by every
// call, since New has no error result.
func New(c Client, o ...Option) *Registry {
	r := &Registry{
		byKey: map[string]*Registration{}, registrations: map[*Registration]struct{}{},
		views: map[string]*view{}, services: map[*Service]struct{}{},
	}
	r.options, r.optionsErr = newOptions(c, o)
	//nolint:forbidigo // what a registry keeps going must not live by the context of the call that began it
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	if c == nil {
		r.optionsErr = errors.Join(r.optionsErr, invalid("no client"))
		return r
	}
	r.store, r.watcher, r.leases = c.KV(), c.Watcher(), c.Leases()
	return r
}

// check refuses a call that cannot be carried out.
func (r *Registry) check(ctx context.Context) error {
	switch {
	case r.optionsErr != nil:
		return r.optionsErr
	case ctx == nil:
		return invalid("nil context")
	case r.ctx.Err() != nil:
		return context.Cause(r.ctx)
	}
	return retry.ContextError(ctx)
}

// OpenService opens a view of the instances of a service, and returns when they are there and followed. ctx bounds that
// alone; without a deadline it gives up after 10 s. A service that nobody has registered yet has no instances and is no
// error.
//
// Views are counted: those of one name share one watch, which ends with the last of them. The first costs a streamed list
// and a server-side watch, the others nothing.
func (r *Registry) OpenService(ctx context.Context, name string) (*Service, error) {
	const op = "open service"
	if err := errors.Join(r.check(ctx), checkSegment("service", name)); err != nil {
		return nil, opError(op, name, err)
	}
	v, err := r.view(name)
	if err != nil {
		return nil, opError(op, name, err)
	}
	if err := v.watch.await(ctx); err != nil {
		r.release(v)
		if r.ctx.Err() != nil {
			err = context.Cause(r.ctx)
		}
		return nil, opError(op, name, err)
	}
	s := newService(r, v)
	r.mu.Lock()
	r.services[s] = struct{}{}
	r.mu.Unlock()
	return s, nil
}

// view takes a share of the view of a service.
func (r *Registry) view(name string) (*view, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errs.ClosedError("registry")
	}
	v := r.views[name]
	if v != nil {
		select {
		case <-v.watch.ended: // for ever: the next one may fare better
		default:
			v.users++
			return v, nil
		}
	}
	v = newView(r.watcher, name, &r.options)
	v.users = 1
	var ctx context.Context
	ctx, v.stop = context.WithCancel(r.ctx)
	r.views[name] = v
	go v.watch.run(ctx)
	return v, nil
}

// release gives a share back. The last one ends the view.
func (r *Registry) release(v *view) {
	r.mu.Lock()
	v.users--
	last := v.users == 0
	if last && r.views[v.service] == v {
		delete(r.views, v.service)
	}
	r.mu.Unlock()
	if last {
		v.close()
	}
}

// Close closes all registrations, together, and all views, and waits for what runs in the background. It takes about 5 s
// when etcd is away, and as long as [RegisterGRPC] needs to drain and stop its servers. It does so once and returns the
// same result every time.
func (r *Registry) Close() error {
	r.closeOnce.Do(func() {
		r.mu.Lock()
		r.closed = true
		regs := slices.Collect(maps.Keys(r.registrations))
		r.mu.Unlock()
		failures := make([]error, len(regs))
		var wg sync.WaitGroup
		for n, reg := range regs {
			wg.Go(func() { failures[n] = reg.Close() })
		}
		wg.Wait()
		r.cancel(errs.ClosedError("registry"))
		r.mu.Lock()
		services, views := slices.Collect(maps.Keys(r.services)), slices.Collect(maps.Values(r.views))
		r.mu.Unlock()
		for _, s := range services {
			_ = s.Close() // always nil
		}
		for _, v := range views { // that are being opened
			v.close()
		}
		r.running.Wait()
		r.closeErr = errors.Join(failures...)
	})
	return r.closeErr
}

// goIfOpen runs f in a goroutine that Close waits for. It reports false once the registry is closed.
func (r *Registry) goIfOpen(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.running.Go(f)
	}
	return !r.closed
}

// add makes a registration the one of its keys in this registry.
func (r *Registry) add(reg *Registration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errs.ClosedError("registry")
	}
	for _, p := range reg.keys {
		if other := r.byKey[p.key]; other != nil && other.ctx.Err() == nil {
			return &TakenError{Holder: other.desired(), Renewed: true, local: true}
		}
	}
	for _, p := range reg.keys {
		r.byKey[p.key] = reg
	}
	r.registrations[reg] = struct{}{}
	return nil
}

// remove forgets a registration.
func (r *Registry) remove(reg *Registration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range reg.keys {
		if r.byKey[p.key] == reg {
			delete(r.byKey, p.key)
		}
	}
	delete(r.registrations, reg)
}

// Services returns the names of all services that have an instance, in order. One streamed list of the keys; with
// [WithGRPCNaming], of all keys of the namespace and their values, since that layout does not tell instances from other
// keys.
func (r *Registry) Services(ctx context.Context) ([]string, error) {
	const op = "services"
	if err := r.check(ctx); err != nil {
		return nil, opError(op, "", err)
	}
	found := map[string]struct{}{}
	if r.layout.top != "" {
		for key, err := range r.store.Keys(ctx, r.layout.top) {
			if err != nil {
				return nil, opError(op, "", reason(err))
			}
			if service, ok := r.serviceOf(key, nil); ok {
				found[service] = struct{}{}
			}
		}
		return names(found), nil
	}
	for e, err := range r.store.List(ctx, "") {
		if err != nil {
			return nil, opError(op, "", reason(err))
		}
		if service, ok := r.serviceOf(e.Key, e.Value); ok {
			found[service] = struct{}{}
		}
	}
	return names(found), nil
}

// serviceOf is the service of a key, if it is that of an instance.
func (r *Registry) serviceOf(key string, value []byte) (string, bool) {
	service, id, ok := r.layout.split(key[len(r.layout.top):])
	if ok && r.layout.top == "" {
		_, err := r.layout.decode(service, id, value)
		ok = err == nil
	}
	return service, ok
}

func names[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for name := range m {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
