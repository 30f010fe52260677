package decorate

import (
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// Client decorates cli.KV, cli.Lease and, if tokens can be renewed, cli.Watcher. cli was created
// with a configuration prepared by [wire.Harden] and is not in use yet. renewsTokens means that a
// rejected token is replaced, by client/v3 or by an interceptor. A field that is decorated already
// is not decorated again.
//
// engine decides which calls are repeated, and counts them. The decorators are closed with cli.
func Client(cli *clientv3.Client, engine *retry.Engine, renewsTokens bool) {
	if _, ok := cli.KV.(*kv); !ok {
		cli.KV = &kv{KV: cli.KV, engine: engine}
	}
	if _, ok := cli.Lease.(*lease); !ok {
		cli.Lease = &lease{Lease: cli.Lease, cli: cli, engine: engine}
	}
	if _, ok := cli.Watcher.(*watcher); !ok && renewsTokens {
		cli.Watcher = newWatcher(cli, engine)
	}
}
