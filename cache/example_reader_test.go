package cache_test

import (
	"context"
	"fmt"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/kv"
)

// admin reports whether a user is an administrator. It works with any Reader.
func admin(ctx context.Context, roles cache.Reader[Role], name string) bool {
	e, err := roles.Get(ctx, name)
	return err == nil && e.Value.Admin
}

// The same code reads from etcd, a Cache or a Replica.
func ExampleReader() {
	client, ctx, done := open("example-reader")
	defer done()
	store := kv.NewTyped(client.KV(), "roles", kv.JSON[Role]())
	_, _ = store.Put(ctx, "ada", Role{Admin: true})
	cached, err := cache.Open(ctx, client, "roles", kv.JSON[Role]())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cached.Close()
	replica, err := cache.OpenReplica(ctx, client, "roles", kv.JSON[Role]())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer replica.Close()

	fmt.Println(admin(ctx, store, "ada"), admin(ctx, cached, "ada"), admin(ctx, replica, "ada"))
	// Output: true true true
}
