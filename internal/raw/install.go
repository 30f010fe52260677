package raw

import (
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// Install puts the decorators over what cli.KV, cli.Lease and, where login is true, cli.Watcher hold. cli is one that
// went through [wire.Harden], as clientv3.New made it, and nobody uses it yet. login says that calls carry a token that
// can be renewed, by client/v3 or below it. A field that is decorated already stays as it is.
//
// engine decides what is repeated, and counts it. The decorators close with the client.
func Install(cli *clientv3.Client, engine *retry.Engine, login bool) {
	if _, done := cli.KV.(*kv); !done {
		cli.KV = &kv{KV: cli.KV, engine: engine}
	}
	if _, done := cli.Lease.(*lease); !done {
		cli.Lease = &lease{Lease: cli.Lease, cli: cli, engine: engine}
	}
	if _, done := cli.Watcher.(*watcher); !done && login {
		cli.Watcher = newWatcher(cli, engine)
	}
}
