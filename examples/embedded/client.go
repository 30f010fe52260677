package embedded

import (
	"context"

	"github.com/etcdkit/etcdkit"
)

// Connect opens a client of what Endpoints returns, below a namespace, with the rest of the configuration from the
// environment. Call stop at the end: it closes the client, then the server.
func Connect(ctx context.Context, namespace string) (client *etcdkit.Client, stop func(), err error) {
	endpoints, stopServer, err := Endpoints(ctx)
	if err != nil {
		return nil, nil, err
	}
	config, err := etcdkit.ConfigFromEnv() // user, password and certificates, where your etcd asks for them
	if err != nil {
		stopServer()
		return nil, nil, err
	}
	config.Endpoints, config.Namespace = endpoints, namespace
	client, err = etcdkit.Open(ctx, config)
	if err != nil {
		stopServer()
		return nil, nil, err
	}
	return client, func() {
		_ = client.Close() // an example has no use for the error: leases that were left to end by themselves
		stopServer()
	}, nil
}
