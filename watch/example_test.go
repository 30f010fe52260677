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

// client is a client as a program would make it.
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
	store := kv.New(cli, kv.WithNamespace("example-watch"))
	defer func() { _, _, _ = store.DeletePrefix(ctx, "") }()
	w := watch.New(cli, watch.WithNamespace("example-watch"))
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
	store := kv.New(cli, kv.WithNamespace("example-subscribe"))
	defer func() { _, _, _ = store.DeletePrefix(ctx, "") }()
	w := watch.New(cli, watch.WithNamespace("example-subscribe"))
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
	store := kv.New(cli, kv.WithNamespace("example-consume"))
	defer func() { _, _, _ = store.DeletePrefix(ctx, "") }()
	w := watch.New(cli, watch.WithNamespace("example-consume"))
	defer w.Close()

	// What was processed last is kept in etcd; a database that is written in the same transaction as the results is better.
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
