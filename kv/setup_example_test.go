package kv_test

import (
	"context"
	"log"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// connect opens a client and a store in an empty namespace of the example. A program gets the store
// from its *etcdkit.Client.
func connect(example string) (ctx context.Context, cli *clientv3.Client, store *kv.Store) {
	ctx = context.Background()
	cli, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.Endpoints(), DialTimeout: 5 * time.Second})
	must(err)
	store, err = kv.New(cli, kv.WithNamespace("example/"+example))
	must(err)
	_, _, err = store.DeletePrefix(ctx, "")
	must(err)
	return ctx, cli, store
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
