package lease_test

import (
	"context"
	"errors"
	"fmt"
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
	store = kv.New(cli, kv.WithNamespace(dir))
	_, _, err = store.DeletePrefix(ctx, "")
	must(err)
	return ctx, cli, lease.New(cli, lease.WithNamespace(dir)), store
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// A session, keys that live as long as it does, and its end.
func Example() {
	ctx, cli, sessions, store := connect("session")
	defer cli.Close()
	defer sessions.Close()

	s, err := sessions.OpenSession(ctx, lease.WithTTL(10*time.Second))
	must(err)
	_, err = store.Put(ctx, "workers/7", []byte("busy"), kv.WithLease(s.ID()))
	must(err)
	fmt.Println(s.State(), s.Err())

	must(s.Close()) // revokes the lease
	_, err = store.Get(ctx, "workers/7")
	fmt.Println(err)
	<-s.Context().Done()
	fmt.Println(s.State(), context.Cause(s.Context()))
	// Output:
	// alive <nil>
	// kv: get "workers/7": key not found
	// lost lease: session: closed
}

// A write that etcd refuses once the session's lease is gone, even if its writer does not know that yet.
func ExampleSession_Guard() {
	ctx, cli, sessions, store := connect("guard")
	defer cli.Close()
	defer sessions.Close()

	s, err := sessions.OpenSession(ctx)
	must(err)
	_, err = store.Put(ctx, "result", []byte("42"), kv.WithGuard(s))
	must(err)

	_, err = cli.Revoke(ctx, s.ID()) // somebody else does
	must(err)
	_, err = store.Put(ctx, "result", []byte("43"), kv.WithGuard(s))
	fmt.Println(errors.Is(err, kv.ErrGuard), errors.Is(err, lease.ErrExpired))
	// Output: true true
}

// A key that is there as long as the process is, whatever happens to it.
func ExampleManager_OpenKey() {
	ctx, cli, sessions, store := connect("key")
	defer cli.Close()
	defer sessions.Close()

	k, err := sessions.OpenKey(ctx, "members/a", []byte("10.0.0.1:80"))
	must(err)
	_, err = store.Delete(ctx, "members/a") // by mistake
	must(err)
	for { // it comes back
		e, err := store.Get(ctx, "members/a")
		if err == nil {
			fmt.Println(string(e.Value))
			break
		}
	}

	must(k.Close())
	_, err = store.Get(ctx, "members/a")
	fmt.Println(err)
	// Output:
	// 10.0.0.1:80
	// kv: get "members/a": key not found
}

// One lease for all that a process does.
func ExampleManager_Shared() {
	ctx, cli, sessions, _ := connect("shared")
	defer cli.Close()
	defer sessions.Close()

	a, err := sessions.Shared(ctx)
	must(err)
	b, err := sessions.Namespace("elsewhere").Shared(ctx)
	must(err)
	fmt.Println(a == b, a.TTL())
	// Output: true 15s
}
