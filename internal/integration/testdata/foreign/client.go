// Package integration is etcd's test framework. foreign_test.go copies this file into it.
package integration

import (
	"context"
	"fmt"
	"os"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"google.golang.org/grpc/connectivity"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/kv"
)

// NewSubject makes the client under test. It takes the place of clientv3.New in the framework and
// in the tests.
func NewSubject(cfg clientv3.Config) (*clientv3.Client, error) {
	switch mode := os.Getenv("ETCDKIT_FOREIGN_MODE"); mode {
	case "plain":
		return clientv3.New(cfg)
	case "open":
		return newOpened(cfg)
	case "namespace":
		cli, err := clientv3.New(cfg)
		if err != nil {
			return nil, err
		}
		const dir = "foreign/"
		cli.KV = kv.Namespace(cli.KV, dir)
		cli.Watcher = namespace.NewWatcher(cli.Watcher, dir)
		cli.Lease = namespace.NewLease(cli.Lease, dir)
		return cli, nil
	case "coalesce":
		cli, err := clientv3.New(cfg)
		if err != nil {
			return nil, err
		}
		cli.KV = kv.Coalesce(cli.KV)
		return cli, nil
	default:
		return nil, fmt.Errorf("no such mode: %q", mode)
	}
}

func newHardened(cfg clientv3.Config) (*clientv3.Client, error) {
	if err := etcdkit.Harden(&cfg); err != nil {
		return nil, err
	}
	return clientv3.New(cfg)
}

// newOpened returns the client/v3 client of an etcdkit.Client (Raw), with its retries, logins and
// health checks. If etcdkit.Config cannot express cfg, it returns a hardened client.
func newOpened(cfg clientv3.Config) (*clientv3.Client, error) {
	if cfg.Context != nil || cfg.AutoSyncInterval != 0 || cfg.RejectOldCluster || cfg.MaxCallSendMsgSize != 0 ||
		cfg.MaxCallRecvMsgSize != 0 || cfg.MaxUnaryRetries != 0 || cfg.PermitWithoutStream {
		return newHardened(cfg)
	}
	opts := []etcdkit.Option{etcdkit.WithDialOptions(cfg.DialOptions...)}
	if cfg.TLS != nil {
		opts = append(opts, etcdkit.WithTLS(cfg.TLS))
	}
	open := etcdkit.OpenLazy
	if cfg.Username != "" {
		opts = append(opts, etcdkit.WithCredentials(func(context.Context) (user, password string, err error) {
			return cfg.Username, cfg.Password, nil
		}))
		open = func(cfg etcdkit.Config, opts ...etcdkit.Option) (*etcdkit.Client, error) {
			return etcdkit.Open(context.Background(), cfg, opts...) //nolint:forbidigo // clientv3.New, which logs in at once, has no context either
		}
	}
	c, err := open(etcdkit.Config{
		Endpoints:                cfg.Endpoints,
		DialTimeout:              etcdkit.Duration(cfg.DialTimeout),
		KeepAlive:                etcdkit.KeepAlive{Time: etcdkit.Duration(cfg.DialKeepAliveTime), Timeout: etcdkit.Duration(cfg.DialKeepAliveTimeout)},
		AllowInsecureCredentials: true,
	}, opts...)
	if err != nil {
		return nil, err
	}
	go closeAfter(c)
	return c.Raw(), nil
}

// closeAfter closes c once its client/v3 client is closed, which is the one that tests close.
func closeAfter(c *etcdkit.Client) {
	conn := c.Raw().ActiveConnection()
	for state := conn.GetState(); state != connectivity.Shutdown; state = conn.GetState() {
		conn.WaitForStateChange(context.Background(), state) //nolint:forbidigo // ends when the test closes the client
	}
	_ = c.Close() // its client/v3 client is closed already
}
