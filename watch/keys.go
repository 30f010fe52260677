package watch

import (
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/keywatch"
)

// Package lock watches its keys over the client of a Watcher.
var _ = keywatch.Provide(func(watcher any) (cli *clientv3.Client, own bool) {
	w, ok := watcher.(*Watcher)
	if !ok || w.core == nil {
		return nil, false
	}
	cli = w.core.cli
	return cli, cli.ActiveConnection() != nil && (cli.Watcher == nil || isClientV3Watcher(cli.Watcher))
})
