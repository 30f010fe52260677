package endpoint

import (
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// resolverScheme is the scheme of the resolver for connections to a single endpoint.
const resolverScheme = "etcdkit-endpoint"

// DialFunc returns a connection to a single endpoint, for probes, queries and second attempts. It
// does not wait until the connection is established.
type DialFunc func(ep string) (*grpc.ClientConn, error)

// DialConfig returns a function that connects to a single endpoint with the same names, TLS
// settings and options that client/v3 uses for cfg. It does not use Client.Dial, which reads the
// client's endpoints without the lock of SetEndpoints.
func DialConfig(cfg clientv3.Config) DialFunc {
	return func(ep string) (*grpc.ClientConn, error) {
		e, err := parseLenient(ep)
		if err != nil {
			return nil, fmt.Errorf("%w: endpoint %w", errs.Invalid, err)
		}
		builder := manual.NewBuilderWithScheme(resolverScheme)
		builder.InitialState(resolver.State{Endpoints: []resolver.Endpoint{{Addresses: []resolver.Address{e.resolverAddress()}}}})
		opts := []grpc.DialOption{
			grpc.WithResolvers(builder),
			// As in client/v3: errors read the same, and a lost connection is reopened without a
			// call.
			grpc.WithDefaultServiceConfig(`{"loadBalancingPolicy": "round_robin"}`),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: cfg.DialKeepAliveTime, Timeout: cfg.DialKeepAliveTimeout}),
		}
		switch {
		case e.RequiresTLS(), cfg.TLS != nil && !e.excludesTLS():
			opts = append(opts, grpc.WithTransportCredentials(credentials.NewTLS(cfg.TLS)))
		default:
			opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))
		}
		return grpc.NewClient(resolverScheme+":///"+strings.TrimPrefix(e.addr, "//"), append(opts, cfg.DialOptions...)...)
	}
}

// DialWith returns a function that connects to a single endpoint with the settings of an existing
// client. It uses cli.Dial, because some settings are not accessible otherwise, so cli.SetEndpoints
// must not be called at the same time.
func DialWith(cli *clientv3.Client) DialFunc {
	return func(ep string) (*grpc.ClientConn, error) {
		if cli.ActiveConnection() == nil {
			return nil, fmt.Errorf("%w: the client has no connection of its own", errs.Invalid)
		}
		return cli.Dial(ep)
	}
}
