package discovery

import (
	"context"
	"errors"
	"reflect"
	"runtime/debug"
	"slices"
	"time"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/experimental/balancer/weight"
	"google.golang.org/grpc/resolver"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Scheme is that of the targets of [Registry.Resolver].
const Scheme = "etcd"

// The pace of a resolver.
const (
	debounceInterval   = 50 * time.Millisecond  // changes within that time after one that was passed on go together
	minResolveInterval = 200 * time.Millisecond // ResolveNow has effect no more often than that
	reportInterval     = 2 * time.Second        // while the first answer of etcd is awaited
)

// roundRobinConfig is what gRPC is asked to do with the addresses. It would keep to the first one otherwise.
const roundRobinConfig = `{"loadBalancingConfig":[{"round_robin":{}}]}`

// Resolver returns what lets gRPC dial services by name:
//
//	grpc.NewClient("etcd:///orders", grpc.WithResolvers(registry.Resolver()), …)
//
// The target may select instances by version, zone and tags, as in
// "etcd:///orders?version=v2&zone=eu-1&tag=canary", and prefer a zone while it has enough of them, as
// in "etcd:///orders?prefer=eu-1&atleast=2". Only tag may be repeated: an instance must have all of
// them. Unknown parameters, and atleast without prefer, are errors. The options hold for all targets.
//
// gRPC is given the addresses of the instances that are up, or of those that drain if no other is left. Changes are passed
// on at once, those that follow within 50 ms together. While etcd is away the last addresses stay. As long as a target was
// never resolved, or has no instance, its calls fail at once, those that wait for ready excepted; where it never had one, with
// what is the matter. The weight of an instance is given as experimental/balancer/weight has it, the instance itself by
// [InstanceOf].
//
// It asks gRPC for round_robin, unless the dialer has a service config of its own (grpc.WithDefaultServiceConfig) or wants
// none (grpc.WithDisableServiceConfig). What a dialer's config leaves out, such as a policy, is as gRPC has it: pick_first.
// A call that is on its way to an instance which dies fails, unless a config has it repeated. With TLS, certificates are
// checked for the name of the service, unless grpc.WithAuthority says otherwise.
//
// Connections to one service share a view of it, which is closed with the last of them. So it is when gRPC goes idle, by
// default after half an hour without a call; who wants addresses while etcd is away even then keeps a [Service] open. Close
// connections before the registry, whose Close waits for resolvers: after it they keep the last addresses.
func (r *Registry) Resolver(o ...PlaceOption) resolver.Builder { return &builder{r: r, opts: o} }

type builder struct {
	r    *Registry
	opts []PlaceOption
}

// Scheme is "etcd".
func (b *builder) Scheme() string { return Scheme }

// Build begins to resolve a target. It does not wait for etcd.
func (b *builder) Build(t resolver.Target, cc resolver.ClientConn, o resolver.BuildOptions) (resolver.Resolver, error) {
	const op = "resolve"
	service, opts, err := parseTarget(t)
	if err = errors.Join(err, b.r.check(b.r.ctx)); err != nil {
		return nil, opError(op, t.String(), err)
	}
	g := &grpcResolver{
		registry: b.r, cc: cc, service: service, placement: newPlacement(slices.Concat(b.opts, opts)),
		resolveNow: make(chan struct{}, 1), done: make(chan struct{}),
		setConfig: !o.DisableServiceConfig && !hasDefaultConfig(cc),
	}
	var ctx context.Context
	ctx, g.cancel = context.WithCancel(b.r.ctx)
	if !b.r.goIfOpen(func() { g.run(ctx) }) {
		g.cancel()
		return nil, opError(op, t.String(), errs.ClosedError("registry"))
	}
	return g, nil
}

// hasDefaultConfig reports whether the dialer has a service config. A resolver is not told, and what it supplies replaces
// the dialer's, so this looks into gRPC's connection, also behind what wraps it where there is an HTTP proxy. Where gRPC is
// not as it was, the dialer has none.
func hasDefaultConfig(cc resolver.ClientConn) bool {
	v := reflect.ValueOf(cc)
	if parent := field(v, "parent"); parent.IsValid() {
		v = field(parent, "cc")
	}
	v = field(field(field(v, "cc"), "dopts"), "defaultServiceConfigRawJSON")
	return v.Kind() == reflect.Pointer && !v.IsNil()
}

// field is a field of the struct that v leads to, invalid where there is none.
func field(v reflect.Value, name string) reflect.Value {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return reflect.Value{}
	}
	return v.FieldByName(name)
}

// grpcResolver tells one connection of the instances of a service.
type grpcResolver struct {
	registry   *Registry
	cc         resolver.ClientConn
	service    string
	placement  *placement
	setConfig  bool
	cancel     context.CancelFunc
	resolveNow chan struct{}
	done       chan struct{}

	last    []*Instance // that gRPC was told of; belongs to run
	updated bool
}

// ResolveNow makes a view that could not be opened be tried again at once. A view that is open knows each change, and needs
// no asking.
func (g *grpcResolver) ResolveNow(resolver.ResolveNowOptions) { notify(g.resolveNow) }

// Close ends it, and returns when nothing runs any more.
func (g *grpcResolver) Close() {
	g.cancel()
	<-g.done
}

// mono opens the view, and follows it until ctx ends.
func (g *grpcResolver) run(ctx context.Context) {
	defer close(g.done)
	wait := newBackoff()
	for ctx.Err() == nil {
		v, err := g.registry.view(g.service)
		if err == nil {
			if err = g.await(ctx, v); err == nil {
				g.follow(ctx, v)
			}
			g.registry.release(v)
		}
		if ctx.Err() == nil {
			g.cc.ReportError(opError("resolve", g.service, err))
			g.backOff(ctx, wait.NextBackOff())
		}
	}
}

// await waits until the view is there, and says from time to time why it is not.
func (g *grpcResolver) await(ctx context.Context, v *view) error {
	for {
		short, stop := context.WithTimeout(ctx, reportInterval)
		err := v.watch.await(short)
		late := short.Err() != nil
		stop()
		if err == nil || ctx.Err() != nil || !late {
			return err
		}
		g.cc.ReportError(opError("resolve", g.service, err))
	}
}

// backOff waits, less long where somebody is in a hurry.
func (g *grpcResolver) backOff(ctx context.Context, d time.Duration) {
	if !pause(ctx, min(d, minResolveInterval)) {
		return
	}
	timer := time.NewTimer(max(d-minResolveInterval, 0))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-g.resolveNow:
	case <-ctx.Done():
	}
}

// follow passes the instances on.
func (g *grpcResolver) follow(ctx context.Context, v *view) {
	bell := make(chan struct{}, 1)
	v.follow(bell)
	defer v.unfollow(bell)
	for {
		g.update(v.current.Load())
		if !pause(ctx, debounceInterval) {
			return
		}
		select {
		case <-bell:
		case <-ctx.Done():
			return
		}
	}
}

// update tells gRPC of the instances, if they are not those that it was told of.
func (g *grpcResolver) update(now *snapshot) {
	defer g.recoverPanic()
	list := preferredZone(g.placement, g.placement.candidates(now.list), func(i *Instance) string { return i.Zone })
	if g.updated && (&snapshot{list: list}).equal(&snapshot{list: g.last}) {
		return
	}
	if len(list) == 0 {
		defer func() { g.cc.ReportError(opError("resolve", g.service, ErrNoInstance)) }()
	}
	if first := !g.updated; first && len(list) == 0 {
		g.updated = true
		return // the balancers that there are at first say in their errors what was reported
	}
	g.last, g.updated = list, true
	state := resolver.State{Endpoints: make([]resolver.Endpoint, 0, len(list))}
	for _, i := range list {
		state.Endpoints = append(state.Endpoints, endpoint(i))
	}
	if g.setConfig {
		state.ServiceConfig = g.cc.ParseServiceConfig(roundRobinConfig)
	}
	_ = g.cc.UpdateState(state) // it complains when there are none; asking again would not help
}

// recoverPanic keeps a panic of a filter from ending the process: the last addresses stay.
func (g *grpcResolver) recoverPanic() {
	if p := recover(); p != nil {
		g.registry.logger.Error("a filter panicked", "service", g.service, "panic", p, "stack", string(debug.Stack()))
	}
}

// instanceKey is the key of an endpoint's attribute.
type instanceKey struct{}

// attribute is an instance as an attribute.
type attribute struct{ *Instance }

// Equal is for attributes.Attributes.
func (a attribute) Equal(o any) bool {
	b, ok := o.(attribute)
	return ok && a.same(b.Instance)
}

// endpoint is an instance as gRPC is told of it. What balancers may want to know is with the endpoint and not with its
// address, where a change would mean another connection.
func endpoint(i *Instance) resolver.Endpoint {
	e := resolver.Endpoint{
		Addresses:  []resolver.Address{{Addr: i.Addr()}},
		Attributes: attributes.New(instanceKey{}, attribute{i}),
	}
	return weight.Set(e, weight.EndpointInfo{Weight: uint32(i.weight())}) //nolint:gosec // at most MaxWeight
}

// InstanceOf returns the instance that an endpoint of [Registry.Resolver] is, for balancers: false for endpoints of others.
// It is shared: do not change it.
func InstanceOf(e resolver.Endpoint) (*Instance, bool) {
	a, ok := e.Attributes.Value(instanceKey{}).(attribute)
	return a.Instance, ok
}
