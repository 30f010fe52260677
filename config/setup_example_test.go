package config_test

import (
	"context"
	stdlog "log"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

// connect returns a client for an example, in a namespace of its own. A program uses its
// *etcdkit.Client.
func connect(ctx context.Context, name string) (client *parttest.Parts, done func()) {
	cli, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.Endpoints(), DialTimeout: 5 * time.Second})
	if err != nil {
		stdlog.Fatal(err)
	}
	client = parttest.Of(cli, name)
	return client, func() {
		_, _, _ = client.KV().DeletePrefix(ctx, "")
		_ = client.Watcher().Close()
		_ = cli.Close()
	}
}
