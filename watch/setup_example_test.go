package watch_test

import (
	"context"
	"log"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// connect returns a store and a watcher of the example's own namespace. A program has them from its
// *etcdkit.Client.
func connect(example string) (ctx context.Context, store *kv.Store, w *watch.Watcher, done func()) {
	cli, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.Endpoints(), DialTimeout: 5 * time.Second})
	must(err)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	store, err = kv.New(cli, kv.WithNamespace("example/watch/"+example))
	must(err)
	w, err = watch.New(cli, watch.WithNamespace("example/watch/"+example))
	must(err)
	return ctx, store, w, func() {
		must(w.Close())
		_, _, err := store.DeletePrefix(ctx, "")
		must(err)
		must(cli.Close())
		cancel()
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
