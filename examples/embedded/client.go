package embedded

import (
	"context"
	"os"
	"strings"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/settings"
)

// ConfigFile is the variable that names a configuration file such as examples/etcd.yaml.
const ConfigFile = "ETCD_CONFIG"

// Connect opens a client. The configuration is that of the environment (etcdkit.ConfigFromEnv),
// which overrides the file that ETCD_CONFIG names. If neither says where etcd is, Connect starts a
// server in this process, as Endpoints does. Keys lie below the given namespace, which lies below
// the configured one. opts are those of etcdkit.Open. Call stop at the end: it closes the client,
// then the server.
func Connect(ctx context.Context, namespace string, opts ...etcdkit.Option) (client *etcdkit.Client, stop func(), err error) {
	config, fromFile, err := configuration()
	if err != nil {
		return nil, nil, err
	}
	if config.Namespace != "" {
		namespace = strings.TrimRight(config.Namespace, "/") + "/" + namespace
	}
	config.Namespace = namespace
	stopServer := func() {}
	if !fromFile && config.Endpoints == nil && config.DiscoverySRV == "" {
		if config.Endpoints, stopServer, err = Endpoints(ctx); err != nil {
			return nil, nil, err
		}
	}
	client, err = etcdkit.Open(ctx, config, opts...)
	if err != nil {
		stopServer()
		return nil, nil, err
	}
	return client, func() {
		_ = client.Close() // an example does not need the error: leases that are left to expire
		stopServer()
	}, nil
}

// Another opens a further client with the configuration of client, as another process would. The
// caller closes it.
func Another(ctx context.Context, client *etcdkit.Client, opts ...etcdkit.Option) (*etcdkit.Client, error) {
	config, _, err := configuration()
	if err != nil {
		return nil, err
	}
	config.Endpoints, config.DiscoverySRV, config.Namespace = client.Raw().Endpoints(), "", client.KV().Dir()
	return etcdkit.Open(ctx, config, opts...)
}

// configuration returns that of the file, overridden by the environment.
func configuration() (config etcdkit.Config, fromFile bool, err error) {
	path := os.Getenv(ConfigFile)
	if path != "" {
		file, err := settings.Load(path)
		if err != nil {
			return config, true, err
		}
		config = file.Etcd
	}
	config, err = config.WithEnv()
	return config, path != "", err
}
