package lease_test

import (
	"context"
	"log"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
)

// connect opens a client for an example, and a manager in an empty namespace of the example's own.
func connect(example string) (ctx context.Context, cli *clientv3.Client, m *lease.Manager, store *kv.Store) {
	ctx = context.Background()
	cli, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.Endpoints(), DialTimeout: 5 * time.Second})
	must(err)
	dir := "example/" + example
	store, err = kv.New(cli, kv.WithNamespace(dir))
	must(err)
	_, _, err = store.DeletePrefix(ctx, "")
	must(err)
	return ctx, cli, etcdtest.Must(lease.New(cli, lease.WithNamespace(dir))), store
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
