package kv_test

import (
	"fmt"
	"sync"

	"github.com/etcdkit/etcdkit/kv"
)

// Calls of many goroutines share transactions.
func ExampleCoalesce() {
	ctx, cli, _ := connect("coalesce")
	defer cli.Close()

	shared := kv.Coalesce(cli.KV) // once, for all goroutines
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			key := fmt.Sprintf("example/coalesce/%02d", i)
			_, err := shared.Put(ctx, key, "on")
			must(err)
			_, err = shared.Get(ctx, key)
			must(err)
		})
	}
	wg.Wait()

	cli.KV = shared // every Store over this client now shares its calls as well
	store, err := kv.New(cli, kv.WithNamespace("example/coalesce"))
	must(err)
	n, err := store.Count(ctx, "")
	must(err)
	fmt.Println(n, "keys")
	// Output: 100 keys
}
