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
	"github.com/etcdkit/etcdkit/internal/notify"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// Scheme is the URL scheme of the targets of [Registry.Resolver].
const Scheme = "etcd"

// Timing of a resolver.
const (
	// Changes this soon after an update are passed on together.
	debounceInterval   = 50 * time.Millisecond
	minResolveInterval = 200 * time.Millisecond // minimum between two effects of ResolveNow
	reportInterval     = 2 * time.Second        // until etcd first answers
)

// roundRobinConfig replaces gRPC's default policy, pick_first.
const roundRobinConfig = `{"loadBalancingConfig":[{"round_robin":{}}]}`

// Resolver returns a resolver with which gRPC dials services by name:
//
//	grpc.NewClient("etcd:///orders", grpc.WithResolvers(registry.Resolver()), …)
//
// The target may select instances by version, zone and tags, as in
// "etcd:///orders?version=v2&zone=eu-1&tag=canary", and prefer a zone while it has enough of them,
// as in "etcd:///orders?prefer=eu-1&atleast=2". Only tag may be repeated: an instance must have all
// of them. Unknown parameters, and atleast without prefer, are errors. The options apply to all
// targets.
//
// gRPC gets the addresses of the instances that are up or, if there are none, of those that are
// draining. The first change is passed on at once; changes within the following 50 ms are combined.
// While etcd is unavailable, the last addresses stay in use. Until a target was first resolved, and
// while it has no instance, its calls fail at once, except for those that wait for ready. The
// weight of an instance is set as experimental/balancer/weight defines it; [InstanceOf] returns the
// instance.
//
// The resolver selects round_robin, unless the dialer sets a service config of its own
// (grpc.WithDefaultServiceConfig) or disables them (grpc.WithDisableServiceConfig). A dialer's
// config without a policy means gRPC's default, pick_first. A call in flight to an instance that
// dies fails unless the service config retries it. With TLS, certificates are checked for the name
// of the service, unless grpc.WithAuthority is used.
//
// Connections to one service share a view, which is closed with the last of them, also when gRPC
// goes idle, by default after 30 minutes without a call. To have addresses even if etcd is
// unavailable then, keep a [Service] open. Close connections before the registry, whose Close waits
// for resolvers; after it they keep the last addresses.
func (r *Registry) Resolver(o ...PlaceOption) resolver.Builder { return &builder{r: r, opts: o} }

type builder struct {
	r    *Registry
	opts []PlaceOption
}

// Scheme returns "etcd".
func (b *builder) Scheme() string { return Scheme }

// Build starts to resolve a target. It does not wait for etcd.
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

// hasDefaultConfig reports whether the dialer has set a service config, which the resolver's would
// replace. gRPC does not tell resolvers, so this reads private fields of its connection, also
// behind the wrapper used for HTTP proxies. If the fields have moved, it returns false.
func hasDefaultConfig(cc resolver.ClientConn) bool {
	v := reflect.ValueOf(cc)
	if parent := field(v, "parent"); parent.IsValid() {
		v = field(parent, "cc")
	}
	v = field(field(field(v, "cc"), "dopts"), "defaultServiceConfigRawJSON")
	return v.Kind() == reflect.Pointer && !v.IsNil()
}

// field returns a field of the struct that v leads to, or the zero Value if there is none.
func field(v reflect.Value, name string) reflect.Value {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return reflect.Value{}
	}
	return v.FieldByName(name)
}

// grpcResolver passes the instances of a service to one connection.
type grpcResolver struct {
	registry   *Registry
	cc         resolver.ClientConn
	service    string
	placement  *placement
	setConfig  bool
	cancel     context.CancelFunc
	resolveNow chan struct{}
	done       chan struct{}

	last    []*Instance // last update; used by run only
	updated bool
}

// ResolveNow retries opening a view at once. An open view is always current, so nothing else is
// needed.
func (g *grpcResolver) ResolveNow(resolver.ResolveNowOptions) { notify.Token(g.resolveNow) }

// Close stops the resolver and waits for it.
func (g *grpcResolver) Close() {
	g.cancel()
	<-g.done
}

// run opens the view and follows it until ctx ends.
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

// await waits for the view and reports from time to time why it is not there.
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

// backOff waits for d, or less after ResolveNow.
func (g *grpcResolver) backOff(ctx context.Context, d time.Duration) {
	if retry.Sleep(ctx, min(d, minResolveInterval)) != nil {
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

// follow passes changes on until ctx ends.
func (g *grpcResolver) follow(ctx context.Context, v *view) {
	changed := make(chan struct{}, 1)
	v.follow(changed)
	defer v.unfollow(changed)
	for {
		g.update(v.current.Load())
		if retry.Sleep(ctx, debounceInterval) != nil {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// update passes the instances to gRPC unless they are unchanged.
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
		return // gRPC's initial balancer shows the reported error
	}
	g.last, g.updated = list, true
	state := resolver.State{Endpoints: make([]resolver.Endpoint, 0, len(list))}
	for _, i := range list {
		state.Endpoints = append(state.Endpoints, endpoint(i))
	}
	if g.setConfig {
		state.ServiceConfig = g.cc.ParseServiceConfig(roundRobinConfig)
	}
	// An error means that the list is empty; resolving again would not help.
	_ = g.cc.UpdateState(state)
}

// recoverPanic keeps a panic of a filter from ending the process. The last addresses remain in use.
func (g *grpcResolver) recoverPanic() {
	if p := recover(); p != nil {
		g.registry.logger.Error("filter panicked", "service", g.service, "panic", p, "stack", string(debug.Stack()))
	}
}

// instanceKey is the key of an endpoint's attribute.
type instanceKey struct{}

// attribute makes an instance an attribute value.
type attribute struct{ *Instance }

// Equal implements the comparison of attributes.Attributes.
func (a attribute) Equal(o any) bool {
	b, ok := o.(attribute)
	return ok && a.same(b.Instance)
}

// endpoint converts an instance. Attributes are attached to the endpoint rather than to its
// address, where a change would replace the connection.
func endpoint(i *Instance) resolver.Endpoint {
	e := resolver.Endpoint{
		Addresses:  []resolver.Address{{Addr: i.Addr()}},
		Attributes: attributes.New(instanceKey{}, attribute{i}),
	}
	return weight.Set(e, weight.EndpointInfo{Weight: uint32(i.weight())}) //nolint:gosec // at most MaxWeight
}

// InstanceOf returns the instance behind an endpoint of [Registry.Resolver], for balancers. It
// returns false for other endpoints. The instance is shared; do not modify it.
func InstanceOf(e resolver.Endpoint) (*Instance, bool) {
	a, ok := e.Attributes.Value(instanceKey{}).(attribute)
	return a.Instance, ok
}
