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

// lineScheme is the scheme of the resolver for connections to a single endpoint.
const lineScheme = "etcdkit-endpoint"

// direct returns a function that connects to a single endpoint with the same names, TLS settings
// and options that client/v3 uses for cfg. The client's own Dial cannot be used, because it reads
// the endpoints without a lock while they may be changed.
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
			// As in client/v3: errors read the same, and a lost connection is reopened without a
			// call.
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

// wrapped returns a function that connects to a single endpoint with the settings of a wrapped
// client. Only its own Dial has all of them.
func wrapped(cli *clientv3.Client) func(ep string) (*grpc.ClientConn, error) {
	return func(ep string) (*grpc.ClientConn, error) {
		if cli.ActiveConnection() == nil {
			return nil, fmt.Errorf("%w: the client has no connection of its own", ErrInvalid)
		}
		return cli.Dial(ep)
	}
}

// reachable is like parseEndpoint, but also accepts URLs with a path, as client/v3 does.
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

// address returns the address for gRPC, and the name that the certificate must be valid for.
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
