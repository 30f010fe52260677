package embedded

import (
	"context"
	"os"
	"strings"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/settings"
)

// ConfigFile is the variable that may name a configuration file such as examples/etcd.yaml.
const ConfigFile = "ETCD_CONFIG"

// Connect opens a client. Where etcd is, and the rest of the configuration, is what the environment says
// (etcdkit.ConfigFromEnv), and for what it does not say, the file that ETCD_CONFIG names. The keys are below the namespace
// given, which itself is below the configured one. Without a file and a variable that says where etcd is, a server is started
// in this process, as Endpoints does. opts are etcdkit.Open's. Call stop at the end: it closes the client, then the server.
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
		_ = client.Close() // an example has no use for the error: leases that were left to end by themselves
		stopServer()
	}, nil
}

// Another opens a further client as Connect has opened client, as another process would have it. Close it when it is done.
func Another(ctx context.Context, client *etcdkit.Client, opts ...etcdkit.Option) (*etcdkit.Client, error) {
	config, _, err := configuration()
	if err != nil {
		return nil, err
	}
	config.Endpoints, config.DiscoverySRV, config.Namespace = client.Raw().Endpoints(), "", client.KV().Dir()
	return etcdkit.Open(ctx, config, opts...)
}

// configuration is that of the environment, over that of the file which it may name.
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
