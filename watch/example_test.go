package watch_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// client returns a client as a program would create it.
func client() *clientv3.Client {
	cli, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.Endpoints(), DialTimeout: 5 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	return cli
}

func Example() {
	cli := client()
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	store, err := kv.New(cli, kv.WithNamespace("example-watch"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _, _, _ = store.DeletePrefix(ctx, "") }()
	w, err := watch.New(cli, watch.WithNamespace("example-watch"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()

	_, _ = store.Put(ctx, "users/ada", []byte("admin"))
	users := map[string]string{}
	for b, err := range w.Watch(ctx, watch.Prefix("users/"), watch.WithSnapshot()) {
		if err != nil {
			fmt.Println(err)
			return
		}
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
		_, _ = store.Put(ctx, "users/bob", []byte("guest"))
	}
	// Output:
	// snapshot map[users/ada:admin]
	// live map[users/ada:admin users/bob:guest]
}

func ExampleWatcher_Subscribe() {
	cli := client()
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	store, err := kv.New(cli, kv.WithNamespace("example-subscribe"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _, _, _ = store.DeletePrefix(ctx, "") }()
	w, err := watch.New(cli, watch.WithNamespace("example-subscribe"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()

	sub, err := w.Subscribe(watch.Key("motd"), func(_ context.Context, b watch.Batch) error {
		for _, e := range b.Events {
			fmt.Printf("%v %s %s\n", e.Type, e.Key, e.Value)
		}
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	<-sub.Ready()
	rev, _ := store.Put(ctx, "motd", []byte("hello"))
	fmt.Println(sub.WaitRevision(ctx, rev)) // the function has returned from it
	fmt.Println(sub.Status().State, sub.Close())
	// Output:
	// put motd hello
	// <nil>
	// live <nil>
}

func ExampleWatcher_Consume() {
	cli := client()
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	store, err := kv.New(cli, kv.WithNamespace("example-consume"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _, _, _ = store.DeletePrefix(ctx, "") }()
	w, err := watch.New(cli, watch.WithNamespace("example-consume"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()

	// The checkpoint is stored in etcd. A database that is written in the same transaction as the
	// results is better.
	checkpoint := kv.NewCheckpoint(store, "checkpoint")
	rev, _ := store.Put(ctx, "orders/0", []byte("before"))
	_ = checkpoint.Save(ctx, rev)
	for i := range 4 {
		_, _ = store.Put(ctx, "orders/"+strconv.Itoa(i), []byte("new"))
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
		fmt.Println(errors.Is(err, crash))
	}
	// Output:
	// orders/0
	// orders/1
	// true
	// orders/2
	// orders/3
	// true
}

func ExampleWithAfter() {
	cli := client()
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	store, err := kv.New(cli, kv.WithNamespace("example-after"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _, _, _ = store.DeletePrefix(ctx, "") }()
	w, err := watch.New(cli, watch.WithNamespace("example-after"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()

	seen, _ := store.Put(ctx, "color", []byte("red")) // the change that was processed last
	_, _ = store.Put(ctx, "color", []byte("green"))
	last, _ := store.Put(ctx, "color", []byte("blue"))
	for b, err := range w.Watch(ctx, watch.Key("color"), watch.WithAfter(seen), watch.WithPrevValue()) {
		if lost, ok := errors.AsType[*watch.CompactedError](err); ok {
			fmt.Println("start over: what came between is gone:", lost.After, lost.Oldest)
			return
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s, was %s\n", b.Events[0].Value, b.Events[0].PrevValue)
		if b.Revision == last {
			break
		}
	}
	// Output:
	// green, was red
	// blue, was green
}

func ExampleWithCoalescing() {
	cli := client()
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	store, err := kv.New(cli, kv.WithNamespace("example-coalescing"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _, _, _ = store.DeletePrefix(ctx, "") }()
	w, err := watch.New(cli, watch.WithNamespace("example-coalescing"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()

	busy, free := make(chan struct{}), make(chan struct{})
	first := true
	sub, err := w.Subscribe(watch.Prefix("stock/"), func(_ context.Context, b watch.Batch) error {
		if first {
			first = false
			close(busy)
			<-free // a slow consumer
			return nil
		}
		for _, e := range b.Events {
			fmt.Printf("%s=%s\n", e.Key, e.Value)
		}
		fmt.Println(b.Folded, "left out")
		return nil
	}, watch.WithCoalescing())
	if err != nil {
		fmt.Println(err)
		return
	}
	<-sub.Ready()
	_, _ = store.Put(ctx, "stock/pears", []byte("0"))
	<-busy
	var rev int64
	for i := range 100 {
		rev, _ = store.Put(ctx, "stock/apples", []byte(strconv.Itoa(i)))
	}
	for w.ServerWatches()[0].Revision < rev { // until all of it has arrived
		time.Sleep(time.Millisecond)
	}
	close(free)
	_ = sub.WaitRevision(ctx, rev)
	_ = sub.Close()
	// Output:
	// stock/apples=99
	// 99 left out
}

func ExampleWithProgress() {
	cli := client()
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	store, err := kv.New(cli, kv.WithNamespace("example-progress"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _, _, _ = store.DeletePrefix(ctx, "") }()
	w, err := watch.New(cli, watch.WithNamespace("example-progress"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()

	var elsewhere int64
	for b, err := range w.Watch(ctx, watch.Prefix("quiet/"), watch.WithProgress(time.Second)) {
		if err != nil {
			fmt.Println(err)
			return
		}
		if elsewhere == 0 {
			fmt.Println(b.Kind, len(b.Events)) // the start of the watch
			elsewhere, _ = store.Put(ctx, "busy/key", []byte("v"))
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

func ExampleWatcher_Namespace() {
	cli := client()
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	store, err := kv.New(cli, kv.WithNamespace("example-namespace"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _, _, _ = store.DeletePrefix(ctx, "") }()
	w, err := watch.New(cli)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()

	for _, k := range []string{"eu/a", "eu/b", "eu/c", "us/a"} {
		_, _ = store.Put(ctx, k, []byte("v"))
	}
	eu := w.Namespace("example-namespace").Namespace("eu") // of the same streams
	for b, err := range eu.Watch(ctx, watch.Range("a", "c"), watch.WithSnapshot()) {
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, e := range b.Events {
			fmt.Println(e.Type, e.Key)
		}
		break
	}
	// Output:
	// put a
	// put b
}

func ExampleWatcher_ServerWatches() {
	cli := client()
	defer cli.Close()
	w, err := watch.New(cli, watch.WithNamespace("example-server-watches"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()

	for range 100 {
		sub, err := w.Subscribe(watch.Prefix("users/"), func(context.Context, watch.Batch) error { return nil })
		if err != nil {
			fmt.Println(err)
			return
		}
		<-sub.Ready()
	}
	for _, s := range w.ServerWatches() {
		fmt.Println(s.Selector, s.Watches, s.State)
	}
	fmt.Println(w.Active(), w.Stats().Streams)
	// Output:
	// users/* 100 live
	// 100 1
}

// A read that must not miss earlier changes waits until the watch has delivered them.
func ExampleSubscription_Refresh() {
	ctx := context.Background()
	cli := client()
	defer cli.Close()
	w, err := watch.New(cli)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()
	sub, err := w.Subscribe(watch.Prefix("example/refresh/"), func(context.Context, watch.Batch) error { return nil })
	if err != nil {
		fmt.Println(err)
		return
	}
	<-sub.Ready()
	asked := time.Now()
	if err := sub.Refresh(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("everything up to now was handled:", !sub.Status().Heard.Before(asked))
	// Output: everything up to now was handled: true
}
