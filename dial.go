package etcdkit

import (
	"fmt"
	"net/url"
	"path"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// lineScheme names the resolver of connections to a single endpoint.
const lineScheme = "etcdkit-endpoint"

// direct connects to single endpoints the way client/v3 connects to all of those of cfg: with the same names, TLS
// settings and options. The client's own Dial will not do, because it reads the client's endpoints without a lock while
// anybody may be setting them.
func direct(cfg clientv3.Config) func(ep string) (*grpc.ClientConn, error) {
	return func(ep string) (*grpc.ClientConn, error) {
		e, err := reachable(ep)
		if err != nil {
			return nil, fmt.Errorf("%w: endpoint %w", ErrInvalid, err)
		}
		found := manual.NewBuilderWithScheme(lineScheme)
		found.InitialState(resolver.State{Endpoints: []resolver.Endpoint{{Addresses: []resolver.Address{e.address()}}}})
		opts := []grpc.DialOption{
			grpc.WithResolvers(found),
			// The policy of client/v3, so that failures read the same and a lost connection is made again unasked.
			grpc.WithDefaultServiceConfig(`{"loadBalancingPolicy": "round_robin"}`),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: cfg.DialKeepAliveTime, Timeout: cfg.DialKeepAliveTimeout}),
		}
		switch {
		case e.secure(), cfg.TLS != nil && !e.plain():
			opts = append(opts, grpc.WithTransportCredentials(credentials.NewTLS(cfg.TLS)))
		default:
			opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))
		}
		return grpc.NewClient(lineScheme+":///"+strings.TrimPrefix(e.addr, "//"), append(opts, cfg.DialOptions...)...)
	}
}

// wrapped connects to single endpoints with what a client of somebody else has; only its own Dial knows all of that.
func wrapped(cli *clientv3.Client) func(ep string) (*grpc.ClientConn, error) {
	return func(ep string) (*grpc.ClientConn, error) {
		if cli.ActiveConnection() == nil {
			return nil, fmt.Errorf("%w: the client has no connection of its own", ErrInvalid)
		}
		return cli.Dial(ep)
	}
}

// reachable is parseEndpoint for endpoints that the user has set on the client below, which takes URLs with a path too.
func reachable(ep string) (endpoint, error) {
	e, err := parseEndpoint(ep)
	if err == nil {
		return e, nil
	}
	if u, uerr := url.Parse(ep); uerr == nil && u.Host != "" {
		return endpoint{scheme: strings.ToLower(u.Scheme), addr: u.Host}, nil
	}
	return endpoint{}, err
}

// address is e as gRPC dials it, and the name that its certificate has to be valid for.
func (e endpoint) address() resolver.Address {
	if !e.socket() {
		return resolver.Address{Addr: e.addr, ServerName: e.addr}
	}
	at := e.addr
	if !strings.HasPrefix(at, "///") {
		at = strings.TrimPrefix(at, "//")
	}
	return resolver.Address{Addr: "unix:" + at, ServerName: path.Base(e.addr)}
}
