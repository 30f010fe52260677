package discovery_test

import (
	"context"
	"log"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

// connect opens a client for an example, in an empty namespace. A program uses its *etcdkit.Client.
func connect(example string) (ctx context.Context, client *parttest.Parts, stop func()) {
	ctx = context.Background()
	cli, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.Endpoints(), DialTimeout: 5 * time.Second})
	must(err)
	dir := "example/discovery/" + example + "/"
	client = parttest.Of(cli, dir)
	_, _, err = client.KV().DeletePrefix(ctx, "")
	must(err)
	return ctx, client, func() {
		must(client.Leases().Close())
		must(client.Watcher().Close())
		must(cli.Close())
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// follow returns a channel with each list of instances that a view shows.
func follow(s *discovery.Service) chan []discovery.Instance {
	lists := make(chan []discovery.Instance, 10)
	s.Follow(func(list []discovery.Instance) { lists <- list })
	return lists
}
