package lock_test

import (
	"log"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/lock"
	"github.com/etcdkit/etcdkit/watch"
)

// process has the parts of a client and a locker, as a process has from its *etcdkit.Client.
type process struct {
	*parts

	locks *lock.Locker
}

// start starts a process for an example, in a namespace of its own, which is empty at first.
func start(example, owner string) *process {
	cli, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.Endpoints(), DialTimeout: 5 * time.Second})
	must(err)
	dir := "example/lock/" + example + "/"
	p := &process{parts: &parts{
		cli: cli, dir: dir, store: etcdtest.Must(kv.New(cli, kv.WithNamespace(dir))),
		watcher: etcdtest.Must(watch.New(cli, watch.WithNamespace(dir))), leases: etcdtest.Must(lease.New(cli, lease.WithNamespace(dir))),
	}}
	p.locks = etcdtest.Must(lock.New(p.parts, lock.WithOwner(owner)))
	return p
}

func (p *process) stop() {
	must(p.locks.Close())
	must(p.leases.Close())
	must(p.watcher.Close())
	must(p.cli.Close())
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
