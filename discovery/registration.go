package discovery

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scope"
)

// A Registration keeps an instance registered until Close or the end of the process. The instance
// comes back by itself after a lost lease, a deleted or overwritten key, and an outage of any
// length. It is safe for concurrent use.
type Registration struct {
	registry *Registry
	options  registerOptions
	keys     []*registrationKey
	server   *grpc.Server // nil unless registered with RegisterGRPC

	mu         sync.Mutex
	ownsServer bool // Close stops the server
	closed     bool // Close was called

	ctx           context.Context //nolint:containedctx // of the registration; returned by Context
	cancel        context.CancelCauseFunc
	opened        chan struct{}             // closed once no key is being opened
	drainingSince atomic.Pointer[time.Time] // nil until the instance was first marked as draining

	closing  sync.Once
	closeErr error
}

// Register registers an instance and returns once it is in etcd. ctx bounds the call only. If
// Register fails, nothing is left behind: keys of requests with an unknown outcome are removed in
// the background. While etcd is unavailable, Register retries until ctx ends or, without a
// deadline, for 10 s.
//
// If another process has registered an instance with the same ID, Host and Port, Register considers
// that process dead and replaces its instance at once, as [WithTakeover] does at any address.
// Therefore, do not combine a fixed ID with an address that is not unique, such as localhost.
// Otherwise Register logs a warning and waits for the lease of the old instance to expire, which
// takes up to its TTL plus one second and is bounded only by ctx. If that lease is renewed, which
// shows within a third of its TTL, Register returns a [*TakenError], which matches [ErrTaken]. If
// ctx ends first, the error matches both. An instance registered by the same client is never
// replaced.
//
// Register costs one RPC and a watch, and one more RPC if the client has no session with this TTL
// yet. Registrations of a client with the same TTL share leases, renewals and streams.
func (r *Registry) Register(ctx context.Context, i Instance, o ...RegisterOption) (*Registration, error) {
	return r.register(ctx, "register", nil, []Instance{i}, o)
}

// register registers several instances as one registration.
func (r *Registry) register(ctx context.Context, op string, srv *grpc.Server, all []Instance, o []RegisterOption) (reg *Registration, err error) {
	ctx, running := r.scope.Begin(ctx, scope.Operation{Package: "discovery", Name: "register", Target: all[0].Service})
	defer func() { running.End(err, 0) }()
	name := all[0].Service + "/" + all[0].ID
	opts, validationErr := newRegisterOptions(o)
	validationErr = errors.Join(r.check(ctx), validationErr)
	for n := range all {
		validationErr = errors.Join(validationErr, all[n].check())
	}
	if validationErr != nil {
		return nil, opError(op, name, validationErr)
	}
	reg, err = r.newRegistration(srv, all, opts)
	if err == nil {
		err = r.add(reg)
	}
	if err != nil {
		reg.cancel(err)
		return nil, opError(op, name, err)
	}
	if opts.background {
		go reg.openAll(func(k *registrationKey) error { return reg.retryOpen(k) }) //nolint:errcheck // errors are logged and retried
	} else if err := reg.openWithin(ctx); err != nil {
		_ = reg.Close() // removes what was created
		return nil, opError(op, name, err)
	}
	if !reg.takeServer() {
		_ = reg.Close() // already in progress
		return nil, opError(op, name, errs.ClosedError("registry"))
	}
	return reg, nil
}

func (r *Registry) newRegistration(srv *grpc.Server, all []Instance, opts registerOptions) (*Registration, error) {
	reg := &Registration{registry: r, options: opts, server: srv, opened: make(chan struct{})}
	reg.ctx, reg.cancel = context.WithCancelCause(r.ctx)
	for _, i := range all {
		i = i.clone()
		i.Status, i.Registered = Up, time.Now().UTC().Truncate(time.Millisecond)
		k, err := r.newRegistrationKey(reg.ctx, i)
		if err != nil {
			return reg, err
		}
		reg.keys = append(reg.keys, k)
	}
	return reg, nil
}

// takeServer makes Close stop the server, if there is one. It returns false if the registry has
// closed the registration in the meantime; the server then remains the caller's.
func (g *Registration) takeServer() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ownsServer = g.server != nil && !g.closed
	return !g.closed
}

// openWithin opens all keys within ctx.
func (g *Registration) openWithin(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(g.ctx, func() { stop(context.Cause(g.ctx)) })()
	if err := g.openAll(func(k *registrationKey) error { return k.open(ctx, g.options.takeover) }); err != nil {
		return err
	}
	if g.ctx.Err() != nil {
		return context.Cause(g.ctx) // the registry was closed
	}
	return nil
}

// openAll opens all keys concurrently.
func (g *Registration) openAll(open func(k *registrationKey) error) error {
	defer close(g.opened)
	return forEach(g.keys, func(k *registrationKey) error {
		err := open(k)
		if err == nil {
			g.endWithKey(k)
		}
		return err
	})
}

// retryOpen opens a key, retrying until the registration ends. It logs the first failure and the
// success after it.
func (g *Registration) retryOpen(k *registrationKey) error {
	wait := newBackoff()
	for failed := false; ; failed = true {
		err := k.open(g.ctx, g.options.takeover)
		if err == nil && failed {
			g.registry.logger.WarnContext(g.ctx, "instance registered", "key", errs.Short(k.key))
		}
		if err == nil || g.ctx.Err() != nil {
			return err
		}
		if errors.Is(err, errs.Closed) {
			g.cancel(errs.ClosedError("client"))
			return err
		}
		if !failed {
			g.registry.logger.WarnContext(g.ctx, "instance not registered; retrying", "key", errs.Short(k.key), "error", err)
		}
		_ = retry.Sleep(g.ctx, wait.NextBackOff())
	}
}

// endWithKey ends the registration if the client is closed.
func (g *Registration) endWithKey(k *registrationKey) {
	_, _, held := k.get()
	context.AfterFunc(held.Context(), func() { g.cancel(errs.ClosedError("registration")) })
}

// desired returns the desired instance of the first key.
func (g *Registration) desired() Instance {
	i, _, _ := g.keys[0].get()
	return i.clone()
}

// Instance returns the desired instance.
func (g *Registration) Instance() Instance { return g.desired() }

// Context returns a context that ends when the registration is closed, with a cause that matches
// ErrClosed. It does not end if the registration is lost, because lost registrations come back; see
// State.
func (g *Registration) Context() context.Context { return g.ctx }

// Update replaces the instance, except for Service, ID, Status and Registered; Service and ID may
// be empty. The lease stays the same. It costs one RPC, or none if nothing changes.
//
// If the arguments are invalid, or if ctx ends before it is this call's turn, nothing changes.
// After any other error, the outcome is unknown and the change remains the desired state: it is
// written as soon as possible. Before the first success of [WithoutWaiting], Update only changes
// what will be registered, and does not fail.
func (g *Registration) Update(ctx context.Context, i Instance) error {
	const op = "update"
	current := g.desired()
	name := current.Service + "/" + current.ID
	validationErr := g.checkOpen(ctx)
	if i.Service != "" && i.Service != current.Service || i.ID != "" && i.ID != current.ID {
		validationErr = errors.Join(validationErr, errs.Invalidf("cannot change the identity to %s/%s", errs.Quote(i.Service), errs.Quote(i.ID)))
	}
	i.Service, i.ID, i.Status = current.Service, current.ID, ""
	if validationErr = errors.Join(validationErr, i.check()); validationErr != nil {
		return opError(op, name, validationErr)
	}
	i = i.clone()
	err := g.changeAll(ctx, func(old *Instance) {
		i := i
		i.Service, i.Status, i.Registered = old.Service, old.Status, old.Registered
		*old = i
	})
	if err != nil {
		return opError(op, name, err)
	}
	return nil
}

// checkOpen returns an error if the registration is closed or ctx is done.
func (g *Registration) checkOpen(ctx context.Context) error {
	if g.ctx.Err() != nil {
		return context.Cause(g.ctx)
	}
	return retry.ContextError(ctx)
}

// changeAll changes the instance under all keys concurrently.
func (g *Registration) changeAll(ctx context.Context, f func(*Instance)) error {
	return forEach(g.keys, func(k *registrationKey) error { return k.change(ctx, f) })
}

// forEach calls f for all keys concurrently and joins the errors.
func forEach(keys []*registrationKey, f func(k *registrationKey) error) error {
	failures := make([]error, len(keys))
	var wg sync.WaitGroup
	for n, k := range keys {
		wg.Go(func() { failures[n] = f(k) })
	}
	wg.Wait()
	return errors.Join(failures...)
}

// Drain marks the instance as draining, so that pickers and resolvers avoid it, and returns when
// WithDrainDelay has passed since the mark was first made. Then stop the server gracefully and call
// Close. The first call costs one RPC. ctx bounds the RPC and the wait; without a deadline, the RPC
// is given up after 10 s. After an error, the mark may be missing, or clients may not have had the
// whole delay. The mark stays the desired state, as with Update. To undo it, close the registration
// and register again.
func (g *Registration) Drain(ctx context.Context) error {
	i := g.desired()
	err := g.checkOpen(ctx)
	if err == nil {
		err = g.changeAll(ctx, setDraining)
	}
	if err == nil {
		err = g.waitDrainDelay(ctx, g.options.drainDelay)
	}
	if err != nil {
		return opError("drain", i.Service+"/"+i.ID, err)
	}
	return nil
}

func setDraining(i *Instance) { i.Status = Draining }

// waitDrainDelay waits until delay has passed since the instance was first marked.
func (g *Registration) waitDrainDelay(ctx context.Context, delay time.Duration) error {
	now := time.Now()
	g.drainingSince.CompareAndSwap(nil, &now)
	if left := delay - time.Since(*g.drainingSince.Load()); left > 0 {
		return retry.Sleep(ctx, left)
	}
	return nil
}
