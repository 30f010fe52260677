// Cache reads users from memory and shows how fresh they are.
//
//	go run ./examples/cache
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/kv"
)

// User is a stored value.
type User struct {
	Name string `json:"name"`
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) { // Ctrl-C is not an error
		log.Fatalf("cache: %v", err)
	}
}

// greet reads a user from a cache, a replica or the store itself.
func greet(ctx context.Context, users cache.Reader[User], id string) (string, error) {
	user, err := users.Get(ctx, id)
	if err != nil {
		return "", err
	}
	return "hello " + user.Value.Name, nil
}

func run(ctx context.Context, out io.Writer) error {
	client, stop, err := embedded.Connect(ctx, "example-cache")
	if err != nil {
		return err
	}
	defer stop()
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }

	// At most 10,000 entries. While the watch is down, reads older than 5 s go to etcd.
	users, err := cache.Open(ctx, client, "users", kv.JSON[User](), cache.WithMaxEntries(10_000), cache.WithMaxStaleness(5*time.Second))
	if err != nil {
		return err
	}
	defer users.Close() //nolint:errcheck // the program ends

	// The write is visible to this process at once.
	if _, err := users.Store().Put(ctx, "42", User{Name: "Ada"}); err != nil {
		return err
	}
	for range 1000 {
		if _, err := greet(ctx, users, "42"); err != nil {
			return err
		}
	}
	text, err := greet(ctx, users, "42")
	if err != nil {
		return err
	}
	say("%s: 1,001 reads, %d of them from etcd", text, users.Stats().Fills)
	_, err = greet(ctx, users, "nobody")
	_, again := greet(ctx, users, "nobody")
	say("an absent key is cached, too: %t", errors.Is(err, kv.ErrNotFound) && errors.Is(again, kv.ErrNotFound) && users.Stats().Fills <= 2)

	// Another process writes. With the revision, this one can wait for the write.
	rev, err := kv.NewTyped(client.KV(), "users", kv.JSON[User]()).Put(ctx, "42", User{Name: "Ada Lovelace"})
	if err != nil {
		return err
	}
	user, err := users.GetAtLeast(ctx, "42", rev)
	if err != nil {
		return err
	}
	say("as new as that write: %s", user.Value.Name)

	// As fresh as a read of etcd. Concurrent callers share one small read.
	user, err = users.GetLinearizable(ctx, "42")
	if err != nil {
		return err
	}
	say("linearizable: %s", user.Value.Name)

	// A replica holds the whole dir in memory, at one revision.
	all, err := cache.OpenReplica(ctx, client, "users", kv.JSON[User]())
	if err != nil {
		return err
	}
	defer all.Close() //nolint:errcheck // the program ends
	for user := range all.All() {
		say("in the replica: users/%s is %s", user.Key, user.Value.Name)
	}
	return nil
}
