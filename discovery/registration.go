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
)

// Registration is an instance that is registered for as long as its process lives and Close is not called. It is desired
// state: after the loss of its lease, after its key was deleted or overwritten, after an outage of etcd of any length, it
// comes back by itself. It is safe for concurrent use.
type Registration struct {
	registry *Registry
	options  registerOptions
	keys     []*registrationKey
	server   *grpc.Server // nil where there is none

	mu         sync.Mutex
	ownsServer bool // the server is to be stopped by Close
	closed     bool // Close was called

	ctx           context.Context //nolint:containedctx // the registration's own life, which it hands out
	cancel        context.CancelCauseFunc
	opened        chan struct{}             // closed when nothing is being opened any more
	drainingSince atomic.Pointer[time.Time] // when it was marked as draining

	closing  sync.Once
	closeErr error
}

// Register registers an instance, and returns when it is in etcd. ctx bounds that alone; when it fails, nothing is left
// behind: what a request may have left that was cut off is removed in the background. While etcd does not answer it is tried
// again until ctx ends; without a deadline, for 10 s.
//
// If another process has registered an instance with the same ID, Host and Port, Register takes that
// process for dead and replaces its instance at once, as [WithTakeover] does at any address: do not
// use an address that is not unique, such as localhost, together with a fixed ID. Otherwise Register
// logs a warning and waits until the lease of the old instance has expired, which takes up to its TTL
// plus one second and is bounded only by ctx. If the lease is being renewed, which shows within a third
// of its TTL, the error is a [*TakenError] and matches [ErrTaken]. If ctx ends before that is known, the
// error matches both. An instance that the same client has registered is never replaced.
//
// One RPC, a watch, and, when the registry's lease is not there yet, one more. Registrations of a client with one TTL share
// leases, renewals and streams.
func (r *Registry) Register(ctx context.Context, i Instance, o ...RegisterOption) (*Registration, error) {
	return r.register(ctx, "register", nil, []Instance{i}, o)
}

// register registers one or several instances as one.
func (r *Registry) register(ctx context.Context, op string, srv *grpc.Server, all []Instance, o []RegisterOption) (*Registration, error) {
	name := all[0].Service + "/" + all[0].ID
	set, validationErr := newRegisterOptions(o)
	validationErr = errors.Join(r.check(ctx), validationErr)
	for n := range all {
		validationErr = errors.Join(validationErr, all[n].check())
	}
	if validationErr != nil {
		return nil, opError(op, name, validationErr)
	}
	reg, err := r.newRegistration(srv, all, set)
	if err == nil {
		err = r.add(reg)
	}
	if err != nil {
		reg.cancel(err)
		return nil, opError(op, name, err)
	}
	if set.background {
		go reg.openAll(func(p *registrationKey) error { return reg.retryOpen(p) }) //nolint:errcheck // it goes on until it has nothing to tell
	} else if err := reg.openWithin(ctx); err != nil {
		_ = reg.Close() // what is there of it
		return nil, opError(op, name, err)
	}
	if !reg.takeServer() {
		_ = reg.Close() // which is under way
		return nil, opError(op, name, errs.ClosedError("registry"))
	}
	return reg, nil
}

func (r *Registry) newRegistration(srv *grpc.Server, all []Instance, set registerOptions) (*Registration, error) {
	reg := &Registration{registry: r, options: set, server: srv, opened: make(chan struct{})}
	reg.ctx, reg.cancel = context.WithCancelCause(r.ctx)
	for _, i := range all {
		i = i.clone()
		i.Status, i.Registered = Up, time.Now().UTC().Truncate(time.Millisecond)
		p, err := r.newRegistrationKey(reg.ctx, i)
		if err != nil {
			return reg, err
		}
		reg.keys = append(reg.keys, p)
	}
	return reg, nil
}

// takeServer makes the server the registration's own, if there is one. It reports false if the registry was faster, and has
// closed the registration: then the server is the caller's still.
func (g *Registration) takeServer() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ownsServer = g.server != nil && !g.closed
	return !g.closed
}

// openWithin opens all places as long as ctx allows.
func (g *Registration) openWithin(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(g.ctx, func() { stop(context.Cause(g.ctx)) })()
	if err := g.openAll(func(p *registrationKey) error { return p.open(ctx, g.options.takeover) }); err != nil {
		return err
	}
	if g.ctx.Err() != nil {
		return context.Cause(g.ctx) // the registry was closed meanwhile
	}
	return nil
}

// openAll opens all places, at once.
func (g *Registration) openAll(open func(p *registrationKey) error) error {
	defer close(g.opened)
	return forEach(g.keys, func(p *registrationKey) error {
		err := open(p)
		if err == nil {
			g.endWithKey(p)
		}
		return err
	})
}

// retryOpen opens a place however long that takes. It logs the first failure and the success after it.
func (g *Registration) retryOpen(p *registrationKey) error {
	wait := newBackoff()
	for failed := false; ; failed = true {
		err := p.open(g.ctx, g.options.takeover)
		if err == nil && failed {
			g.registry.logger.WarnContext(g.ctx, "instance is registered", "key", errs.Short(p.key))
		}
		if err == nil || g.ctx.Err() != nil {
			return err
		}
		if errors.Is(err, errs.Closed) {
			g.cancel(errs.ClosedError("client"))
			return err
		}
		if !failed {
			g.registry.logger.WarnContext(g.ctx, "instance could not be registered; retrying", "key", errs.Short(p.key), "error", err)
		}
		pause(g.ctx, wait.NextBackOff())
	}
}

// endWithKey ends the registration when the client is closed under it.
func (g *Registration) endWithKey(p *registrationKey) {
	_, _, held := p.get()
	context.AfterFunc(held.Context(), func() { g.cancel(errs.ClosedError("registration")) })
}

// desired is the instance as it is to be, of the first place.
func (g *Registration) desired() Instance {
	i, _, _ := g.keys[0].get()
	return i.clone()
}

// Instance is the instance as it is to be in etcd.
func (g *Registration) Instance() Instance { return g.desired() }

// Context ends when the registration is closed, with a cause that matches ErrClosed, and not before: one that is lost comes
// back. State tells what is the case at present.
func (g *Registration) Context() context.Context { return g.ctx }

// Update changes the instance, all of it but Service, ID, Status and Registered; Service and ID may be left empty. It keeps
// the lease. One RPC; none when nothing has changed.
//
// Refused arguments, and a ctx that ends before it is this call's turn, change nothing. Any other failure means that the
// change was not seen to be made: it is what the registration is restored to all the same, as soon as that is possible.
// Before the first success of [WithoutWaiting], Update only says what is to be registered, and does not fail.
func (g *Registration) Update(ctx context.Context, i Instance) error {
	const op = "update"
	was := g.desired()
	name := was.Service + "/" + was.ID
	validationErr := g.checkOpen(ctx)
	if i.Service != "" && i.Service != was.Service || i.ID != "" && i.ID != was.ID {
		validationErr = errors.Join(validationErr, invalid("%s/%s is another instance", errs.Quote(i.Service), errs.Quote(i.ID)))
	}
	i.Service, i.ID, i.Status = was.Service, was.ID, ""
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

// check refuses a call that cannot be carried out.
func (g *Registration) checkOpen(ctx context.Context) error {
	switch {
	case ctx == nil:
		return invalid("nil context")
	case g.ctx.Err() != nil:
		return context.Cause(g.ctx)
	}
	return retry.ContextError(ctx)
}

// changeAll changes the instance at all places, at once.
func (g *Registration) changeAll(ctx context.Context, f func(*Instance)) error {
	return forEach(g.keys, func(p *registrationKey) error { return p.change(ctx, f) })
}

// forEach does something at all places, at once.
func forEach(places []*registrationKey, f func(p *registrationKey) error) error {
	failures := make([]error, len(places))
	var wg sync.WaitGroup
	for n, p := range places {
		wg.Go(func() { failures[n] = f(p) })
	}
	wg.Wait()
	return errors.Join(failures...)
}

// Drain marks the instance as draining, so that pickers and resolvers leave it alone, and returns when WithDrainDelay has
// passed since the mark was made: what comes after it is GracefulStop and Close. It may be called again. One RPC for the
// first call. ctx bounds both; without a deadline, the mark is given up after 10 s. An error means that the mark was not seen
// to be made, or that clients have not had all of their time. It is made as soon as that is possible, as with Update; there
// is no way back but Close and Register.
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

// waitDrainDelay waits until clients have turned elsewhere: for some time after the mark was made first.
func (g *Registration) waitDrainDelay(ctx context.Context, delay time.Duration) error {
	now := time.Now()
	g.drainingSince.CompareAndSwap(nil, &now)
	if left := delay - time.Since(*g.drainingSince.Load()); left > 0 && !pause(ctx, left) {
		return retry.ContextError(ctx)
	}
	return nil
}
