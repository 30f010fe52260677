package discovery

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

// Client is the part of *etcdkit.Client that a [Registry] uses. All parts must be of the same
// namespace.
type Client interface {
	KV() *kv.Store
	Watcher() *watch.Watcher
	Leases() *lease.Manager
}

// A Registry registers instances and finds those of other processes. It is safe for concurrent use.
type Registry struct {
	options

	store   *kv.Store
	watcher *watch.Watcher
	leases  *lease.Manager

	ctx    context.Context //nolint:containedctx // of everything the registry has started
	cancel context.CancelCauseFunc

	mu            sync.Mutex
	closed        bool
	byKey         map[string]*Registration
	registrations map[*Registration]struct{}
	views         map[string]*view
	services      map[*Service]struct{}
	running       sync.WaitGroup // followers of names and resolvers; does not grow once closed
	closeOnce     sync.Once
	closeErr      error
}

// New returns a registry that uses the client c, or an error that joins everything that is wrong
// with the arguments. It sends nothing.
func New(c Client, o ...Option) (*Registry, error) {
	s, err := newOptions(c, o)
	if c == nil {
		err = errors.Join(err, errs.Invalidf("nil client"))
	}
	if err != nil {
		return nil, opError("new", "", err)
	}
	r := &Registry{
		options: s, store: c.KV(), watcher: c.Watcher(), leases: c.Leases(),
		byKey: map[string]*Registration{}, registrations: map[*Registration]struct{}{},
		views: map[string]*view{}, services: map[*Service]struct{}{},
	}
	//nolint:forbidigo // the registry must not depend on a caller's context
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	return r, nil
}

// check returns an error if the registry is closed or ctx is done.
func (r *Registry) check(ctx context.Context) error {
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	return retry.ContextError(ctx)
}

// OpenService returns a view of the instances of a service once they are known and being followed.
// ctx bounds the call only; without a deadline, the limit is 10 s. A service that was never
// registered has no instances; this is not an error.
//
// Views of one name share a watch, which ends with the last of them. The first view costs a
// streamed list and a server-side watch, further ones nothing.
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

// view returns the shared view of a service and counts the caller as a user.
func (r *Registry) view(name string) (*view, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errs.ClosedError("registry")
	}
	v := r.views[name]
	if v != nil {
		select {
		case <-v.watch.Ended(): // failed; try again with a new one
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
	v.tracked = scope.Track(r.scope, metrics, name, func() Stats { return r.viewStats(v) })
	go v.watch.Run(ctx)
	return v, nil
}

// release counts a user out. The last one closes the view.
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

// Close closes all registrations concurrently, closes all views, and waits for everything running
// in the background. It takes about 5 s if etcd is unavailable, or as long as the servers of
// [Registry.RegisterGRPC] need to drain and stop. It is idempotent and always returns the same
// result.
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
		for _, v := range views { // views that are still being opened
			v.close()
		}
		r.running.Wait()
		r.closeErr = errors.Join(failures...)
	})
	return r.closeErr
}

// goIfOpen runs f on a goroutine that Close waits for. It returns false if the registry is closed.
func (r *Registry) goIfOpen(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.running.Go(f)
	}
	return !r.closed
}

// add records a registration, or returns an error if one of its keys is registered already.
func (r *Registry) add(reg *Registration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errs.ClosedError("registry")
	}
	for _, k := range reg.keys {
		if other := r.byKey[k.key]; other != nil && other.ctx.Err() == nil {
			return &TakenError{Holder: other.desired(), Renewed: true, local: true}
		}
	}
	for _, k := range reg.keys {
		r.byKey[k.key] = reg
	}
	r.registrations[reg] = struct{}{}
	return nil
}

// remove forgets a registration.
func (r *Registry) remove(reg *Registration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range reg.keys {
		if r.byKey[k.key] == reg {
			delete(r.byKey, k.key)
		}
	}
	delete(r.registrations, reg)
}

// Services returns the sorted names of all services that have an instance. It costs one streamed
// list of the keys below services/. With [WithGRPCNaming], it lists all keys and values of the
// namespace, because that layout does not distinguish instances from other keys.
func (r *Registry) Services(ctx context.Context) ([]string, error) {
	const op = "services"
	if err := r.check(ctx); err != nil {
		return nil, opError(op, "", err)
	}
	found := map[string]struct{}{}
	if r.layout.top != "" {
		for key, err := range r.store.Keys(ctx, r.layout.top) {
			if err != nil {
				return nil, opError(op, "", errs.Cause(err))
			}
			if service, ok := r.serviceOf(key, nil); ok {
				found[service] = struct{}{}
			}
		}
		return names(found), nil
	}
	for e, err := range r.store.List(ctx, "") {
		if err != nil {
			return nil, opError(op, "", errs.Cause(err))
		}
		if service, ok := r.serviceOf(e.Key, e.Value); ok {
			found[service] = struct{}{}
		}
	}
	return names(found), nil
}

// serviceOf returns the service of an instance's key. ok is false for other keys.
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
