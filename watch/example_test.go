package watch_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// A watch with a snapshot keeps a map up to date.
func Example() {
	ctx, store, w, done := connect("users")
	defer done()

	_, err := store.Put(ctx, "users/ada", []byte("admin"))
	must(err)
	users := map[string]string{}
	for b, err := range w.Watch(ctx, watch.Prefix("users/"), watch.WithSnapshot()) {
		must(err)
		for _, e := range b.Events {
			if e.Type == watch.Delete {
				delete(users, e.Key)
			} else {
				users[e.Key] = string(e.Value)
			}
		}
		fmt.Println(b.Kind, users)
		if b.Kind == watch.Live {
			break
		}
		_, err = store.Put(ctx, "users/bob", []byte("guest"))
		must(err)
	}
	// Output:
	// snapshot map[users/ada:admin]
	// live map[users/ada:admin users/bob:guest]
}

// A subscription calls a function for each batch.
func ExampleWatcher_Subscribe() {
	ctx, store, w, done := connect("subscribe")
	defer done()

	sub, err := w.Subscribe(watch.Key("motd"), func(_ context.Context, b watch.Batch) error {
		for _, e := range b.Events {
			fmt.Printf("%v %s %s\n", e.Type, e.Key, e.Value)
		}
		return nil
	})
	must(err)
	<-sub.Ready()
	rev, err := store.Put(ctx, "motd", []byte("hello"))
	must(err)
	must(sub.WaitRevision(ctx, rev)) // the function has returned from it
	fmt.Println(sub.Status().State)
	must(sub.Close())
	// Output:
	// put motd hello
	// live
}

// Consume continues after the last batch that was processed, even if the process crashed.
func ExampleWatcher_Consume() {
	ctx, store, w, done := connect("consume")
	defer done()

	// The checkpoint is stored in etcd. A row in a database, written in the same transaction as the
	// results, is better.
	checkpoint := kv.NewCheckpoint(store, "checkpoint")
	rev, err := store.Put(ctx, "orders/0", []byte("before"))
	must(err)
	must(checkpoint.Save(ctx, rev))
	for i := range 4 {
		_, err := store.Put(ctx, "orders/"+strconv.Itoa(i), []byte("new"))
		must(err)
	}
	crash := errors.New("crash")
	for range 2 {
		n := 0
		err := w.Consume(ctx, watch.Prefix("orders/"), checkpoint, func(_ context.Context, b watch.Batch) error {
			n++
			if n > 2 {
				return crash
			}
			fmt.Println(b.Events[0].Key)
			if b.Events[0].Key == "orders/3" {
				return crash
			}
			return nil
		})
		fmt.Println(err)
	}
	// Output:
	// orders/0
	// orders/1
	// watch: consume "orders/*": crash
	// orders/2
	// orders/3
	// watch: consume "orders/*": crash
}

// A watch that continues from a stored revision misses no change.
func ExampleWithAfter() {
	ctx, store, w, done := connect("after")
	defer done()

	processed, err := store.Put(ctx, "color", []byte("red"))
	must(err)
	_, err = store.Put(ctx, "color", []byte("green"))
	must(err)
	last, err := store.Put(ctx, "color", []byte("blue"))
	must(err)
	for b, err := range w.Watch(ctx, watch.Key("color"), watch.WithAfter(processed), watch.WithPrevValue()) {
		if compacted, ok := errors.AsType[*watch.CompactedError](err); ok {
			fmt.Println("missed the changes before", compacted.Oldest)
			return
		}
		must(err)
		fmt.Printf("%s, was %s\n", b.Events[0].Value, b.Events[0].PrevValue)
		if b.Revision == last {
			break
		}
	}
	// Output:
	// green, was red
	// blue, was green
}

// A slow consumer gets the latest change of each key.
func ExampleWithCoalescing() {
	ctx, store, w, done := connect("coalescing")
	defer done()

	busy, free := make(chan struct{}), make(chan struct{})
	first := true
	sub, err := w.Subscribe(watch.Prefix("stock/"), func(_ context.Context, b watch.Batch) error {
		if first {
			first = false
			close(busy)
			<-free // takes long
			return nil
		}
		for _, e := range b.Events {
			fmt.Printf("%s=%s\n", e.Key, e.Value)
		}
		fmt.Println(b.Folded, "changes left out")
		return nil
	}, watch.WithCoalescing())
	must(err)
	<-sub.Ready()
	_, err = store.Put(ctx, "stock/pears", []byte("0"))
	must(err)
	<-busy
	var rev int64
	for i := range 100 {
		rev, err = store.Put(ctx, "stock/apples", []byte(strconv.Itoa(i)))
		must(err)
	}
	for w.ServerWatches()[0].Revision < rev { // until all of it has arrived
		time.Sleep(time.Millisecond)
	}
	close(free)
	must(sub.WaitRevision(ctx, rev))
	must(sub.Close())
	// Output:
	// stock/apples=99
	// 99 changes left out
}

// Progress batches advance the revision while the watched keys do not change.
func ExampleWithProgress() {
	ctx, store, w, done := connect("progress")
	defer done()

	var elsewhere int64
	for b, err := range w.Watch(ctx, watch.Prefix("quiet/"), watch.WithProgress(time.Second)) {
		must(err)
		if elsewhere == 0 {
			fmt.Println(b.Kind, len(b.Events)) // the start of the watch
			elsewhere, err = store.Put(ctx, "busy/key", []byte("v"))
			must(err)
		}
		if b.Revision >= elsewhere {
			fmt.Println(b.Kind, len(b.Events)) // nothing has changed up to that revision
			break
		}
	}
	// Output:
	// progress 0
	// progress 0
}

// A watcher of a namespace sees the keys below it. A range ends before its second key.
func ExampleWatcher_Namespace() {
	ctx, store, w, done := connect("namespace")
	defer done()

	for _, k := range []string{"eu/a", "eu/b", "eu/c", "us/a"} {
		_, err := store.Put(ctx, k, []byte("v"))
		must(err)
	}
	for b, err := range w.Namespace("eu").Watch(ctx, watch.Range("a", "c"), watch.WithSnapshot()) {
		must(err)
		for _, e := range b.Events {
			fmt.Println(e.Type, e.Key)
		}
		break
	}
	// Output:
	// put a
	// put b
}

// Watches with the same selector share one server-side watch.
func ExampleWatcher_ServerWatches() {
	_, _, w, done := connect("server-watches")
	defer done()

	for range 100 {
		sub, err := w.Subscribe(watch.Prefix("users/"), func(context.Context, watch.Batch) error { return nil })
		must(err)
		<-sub.Ready()
	}
	for _, s := range w.ServerWatches() {
		fmt.Println(s.Selector, s.Watches, s.State)
	}
	fmt.Println(w.Active(), "watches,", w.Stats().Streams, "stream")
	// Output:
	// users/* 100 live
	// 100 watches, 1 stream
}

// A read that must not miss earlier changes waits until the watch has delivered them.
func ExampleSubscription_Refresh() {
	ctx, _, w, done := connect("refresh")
	defer done()

	sub, err := w.Subscribe(watch.Prefix("users/"), func(context.Context, watch.Batch) error { return nil })
	must(err)
	<-sub.Ready()
	asked := time.Now()
	must(sub.Refresh(ctx))
	fmt.Println("every earlier change was handled:", !sub.Status().Heard.Before(asked))
	// Output: every earlier change was handled: true
}
