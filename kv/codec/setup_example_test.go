package codec_test

import (
	"context"
	"log"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// connect returns a store in a namespace of the example. A program has it from its *etcdkit.Client.
func connect(example string) (ctx context.Context, store *kv.Store, done func()) {
	cli, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.Endpoints(), DialTimeout: 5 * time.Second})
	must(err)
	store, err = kv.New(cli, kv.WithNamespace("example/codec/"+example))
	must(err)
	return context.Background(), store, func() { must(cli.Close()) }
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
