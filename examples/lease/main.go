// Lease shows keys that last as long as their process: a session whose context ends before etcd
// deletes its keys, and a key that is restored.
//
//	go run ./examples/lease
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

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Fatalf("lease: %v", err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	client, stop, err := embedded.Connect(ctx, "example-lease")
	if err != nil {
		return err
	}
	defer stop() // revokes all leases and so deletes their keys
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	if err := session(ctx, client, say); err != nil {
		return err
	}
	return presence(ctx, client, say)
}

// session does work that must end when others can no longer see that it is being done.
func session(ctx context.Context, client *etcdkit.Client, say func(string, ...any)) error {
	// The session is renewed every third of its TTL. If the process dies, etcd deletes the keys
	// once the TTL has passed.
	s, err := client.Leases().OpenSession(ctx, lease.WithTTL(3*time.Second))
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // it is lost by then
	if _, err := client.KV().Put(ctx, "working", []byte("on it"), kv.WithLease(s.ID())); err != nil {
		return err
	}
	say("the session is %s, its TTL is %v", s.State(), s.TTL())
	guard := s.Guard() // etcd refuses a write with it once the lease is gone

	// An operator revokes the lease. If the network were cut, the context would end before etcd
	// deletes the keys.
	if _, err := client.Raw().Revoke(ctx, s.ID()); err != nil {
		return err
	}
	select { // noticed by the next renewal, or at once by s.Verify
	case <-s.Context().Done(): // the context of the work
		say("its context has ended: %v", context.Cause(s.Context()))
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err = client.KV().Put(ctx, "result", []byte("done"), kv.WithGuard(guard))
	say("a write with its guard: refused %t, because it is lost: %t", errors.Is(err, kv.ErrGuard), errors.Is(err, lease.ErrExpired))
	found, err := client.KV().Exists(ctx, "working")
	say("its key exists: %t", found)
	return err
}

// presence keeps a key that says "this process is alive", whatever happens to it. Each process
// needs a key of its own: a key that exists already is lease.ErrExists, also until the lease of a
// process that was killed has expired.
func presence(ctx context.Context, client *etcdkit.Client, say func(string, ...any)) error {
	key, err := client.Leases().OpenKey(ctx, "present/me", []byte("10.0.0.1:80"))
	if err != nil {
		return err
	}
	defer key.Close() //nolint:errcheck // closed below, if all goes well
	deleted, err := client.KV().Delete(ctx, "present/me")
	if err != nil {
		return err
	}
	say("somebody deletes it")
	back, err := comeback(ctx, client, deleted, say)
	if err != nil {
		return err
	}
	// This deletes all keys of the process.
	if _, err := client.Raw().Revoke(ctx, back.Lease); err != nil {
		return err
	}
	say("somebody revokes its lease")
	if _, err = comeback(ctx, client, back.ModRevision, say); err != nil {
		return err
	}
	closed := key.Close()
	found, err := client.KV().Exists(ctx, "present/me")
	say("it is closed; the key exists: %t", found)
	return errors.Join(closed, err)
}

// comeback follows the key until it is restored.
func comeback(ctx context.Context, client *etcdkit.Client, after int64, say func(string, ...any)) (watch.Event, error) {
	for batch, err := range client.Watcher().Watch(ctx, watch.Key("present/me"), watch.WithAfter(after), watch.WithPutsOnly()) {
		if err != nil {
			return watch.Event{}, err
		}
		say("it is restored: %s", batch.Events[0].Value)
		return batch.Events[0], nil
	}
	return watch.Event{}, ctx.Err()
}
