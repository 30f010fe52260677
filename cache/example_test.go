package cache_test

import (
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/kv"
)

// Role is the value of the examples.
type Role struct{ Admin bool }

// A replica is read without RPCs and shows the writes through it at once.
func Example() {
	client, ctx, done := open("example-package")
	defer done()
	roles, err := cache.OpenReplica(ctx, client, "roles", kv.JSON[Role]())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer roles.Close()

	_, err = roles.Store().Put(ctx, "ada", Role{Admin: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	e, err := roles.Get(ctx, "ada") // from memory
	fmt.Println(e.Value.Admin, err)
	_, err = roles.Get(ctx, "bob")
	fmt.Println(errors.Is(err, kv.ErrNotFound))
	// Output:
	// true <nil>
	// true
}

// A Cache holds the keys that are read, including absent ones.
func ExampleOpen() {
	client, ctx, done := open("example-cache")
	defer done()
	roles, err := cache.Open(ctx, client, "roles", kv.JSON[Role](), cache.WithMaxEntries(100), cache.WithTTL(time.Minute))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer roles.Close()

	_, err = roles.Get(ctx, "ada")
	fmt.Println(errors.Is(err, kv.ErrNotFound)) // which is cached as well
	_, _ = roles.Get(ctx, "ada")

	_, _ = client.KV().Put(ctx, "roles/ada", []byte(`{"Admin":true}`)) // by another process
	e, _ := roles.GetLinearizable(ctx, "ada")
	fmt.Println(e.Value.Admin)
	e, _ = roles.Get(ctx, "ada")
	fmt.Println(e.Value.Admin)
	fmt.Println(roles.Stats().Fills <= 2)
	// Output:
	// true
	// true
	// true
	// true
}

// GetAtLeast reflects a write made by another process.
func ExampleCache_GetAtLeast() {
	client, ctx, done := open("example-at-least")
	defer done()
	roles, err := cache.Open(ctx, client, "roles", kv.JSON[Role]())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer roles.Close()

	// Another process writes, and passes the revision on in a message or a cookie.
	rev, _ := client.KV().Put(ctx, "roles/ada", []byte(`{"Admin":true}`))
	e, err := roles.GetAtLeast(ctx, "ada", rev)
	fmt.Println(e.Value.Admin, e.ModRevision >= rev, err)
	// Output: true true <nil>
}

// Invalidate makes the next read of a key go to etcd.
func ExampleCache_Invalidate() {
	client, ctx, done := open("example-invalidate")
	defer done()
	names, err := cache.Open(ctx, client, "names", kv.String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer names.Close()

	_, _ = names.Get(ctx, "a")
	_, _ = names.Get(ctx, "a")
	names.Invalidate("a")
	_, _ = names.Get(ctx, "a")
	s := names.Stats()
	fmt.Println(s.Hits, s.Misses)
	// Output: 1 2
}

// A Replica can list its keys, and wait for a revision.
func ExampleOpenReplica() {
	client, ctx, done := open("example-replica")
	defer done()
	_, _ = client.KV().Put(ctx, "roles/ada", []byte(`{"Admin":true}`))
	_, _ = client.KV().Put(ctx, "roles/bob", []byte(`{}`))
	roles, err := cache.OpenReplica(ctx, client, "roles", kv.JSON[Role]())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer roles.Close()

	e, _ := roles.Get(ctx, "ada") // no RPC
	fmt.Println(e.Key, e.Value.Admin, roles.Len())
	for e := range roles.All() {
		fmt.Println(e.Key)
	}
	rev, _ := client.KV().Delete(ctx, "roles/bob")
	_ = roles.WaitRevision(ctx, rev)
	_, err = roles.Get(ctx, "bob")
	fmt.Println(err)
	// Output:
	// ada true 2
	// ada
	// bob
	// cache: get "roles/bob": key not found
}

// View reads several keys at one revision, whatever is written meanwhile.
func ExampleReplica_View() {
	client, ctx, done := open("example-view")
	defer done()
	flags, err := cache.OpenReplica(ctx, client, "flags", kv.String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer flags.Close()

	tx, _ := client.KV().Txn(ctx).Then(clientv3.OpPut("flags/primary", "eu"), clientv3.OpPut("flags/backup", "us")).Commit()
	_ = flags.WaitRevision(ctx, tx.Header.Revision)
	flags.View(func(get func(key string) (kv.Entry[string], bool)) {
		_, _ = client.KV().Txn(ctx).Then(clientv3.OpPut("flags/primary", "us"), clientv3.OpPut("flags/backup", "eu")).Commit()
		primary, _ := get("primary")
		backup, _ := get("backup")
		fmt.Println(primary.Value, backup.Value)
	})
	// Output: eu us
}

// Follow calls a function for each entry and then for each change.
func ExampleReplica_Follow() {
	client, ctx, done := open("example-follow")
	defer done()
	_, _ = client.KV().Put(ctx, "limits/rate", []byte("10"))
	limits, err := cache.OpenReplica(ctx, client, "limits", kv.String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limits.Close()

	received := make(chan struct{})
	stop := limits.Follow(func(c cache.Change[string]) {
		fmt.Printf("%s: %q -> %q\n", c.New.Key, c.Old.Value, c.New.Value)
		received <- struct{}{}
	})
	<-received
	_, _ = client.KV().Put(ctx, "limits/rate", []byte("20"))
	<-received
	stop()
	// Output:
	// rate: "" -> "10"
	// rate: "10" -> "20"
}

// FollowRevisions passes all changes of a transaction in one call.
func ExampleReplica_FollowRevisions() {
	client, ctx, done := open("example-follow-revisions")
	defer done()
	limits, err := cache.OpenReplica(ctx, client, "limits", kv.String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limits.Close()

	received := make(chan int)
	limits.FollowRevisions(func(_ int64, changes []cache.Change[string]) { received <- len(changes) })
	fmt.Println(<-received, "at first")
	_, _ = client.KV().Txn(ctx).Then(clientv3.OpPut("limits/a", "1"), clientv3.OpPut("limits/b", "2")).Commit()
	fmt.Println(<-received, "by one transaction")
	// Output:
	// 0 at first
	// 2 by one transaction
}
