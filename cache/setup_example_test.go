package cache_test

import (
	"context"
	"log"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

// open returns a client for an example, in a namespace of its own. A program uses its
// *etcdkit.Client.
func open(namespace string) (c *parttest.Parts, ctx context.Context, done func()) {
	cli, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.Endpoints(), DialTimeout: 5 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	c = parttest.Of(cli, namespace)
	return c, ctx, func() {
		_, _, _ = c.KV().DeletePrefix(ctx, "")
		_ = c.Watcher().Close()
		_ = cli.Close()
		cancel()
	}
}
