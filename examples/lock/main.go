// Lock shows why a lock alone does not protect data, and what does: a holder that stands still for
// too long loses its lock without noticing and goes on writing, and etcd refuses the write.
//
//	go run ./examples/lock
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

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) { // Ctrl-C is not an error
		log.Fatalf("lock: %v", err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	client, stop, err := embedded.Connect(ctx, "example-lock")
	if err != nil {
		return err
	}
	defer stop()
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }

	// Do releases the lock at the end, and the context of the work ends if the lock is lost.
	job := client.Locks().Mutex("nightly-job")
	err = job.Do(ctx, func(ctx context.Context, held *lock.Held) error {
		_, err := job.TryLock(ctx)
		var locked *lock.LockedError
		say("while it is held, another caller is told so: %t", errors.As(err, &locked))

		// The guard has etcd refuse the write once the lock is lost.
		_, err = client.KV().Put(ctx, "report", []byte("from the holder"), kv.WithGuard(held))
		return err
	})
	if err != nil {
		return err
	}
	say("the holder has written, and released")

	return paused(ctx, client, job, say)
}

// paused shows a process that stands still, as on a suspended machine: its lease expires and the
// next one acquires the lock. Here an operator revokes the lease instead.
func paused(ctx context.Context, client *etcdkit.Client, job *lock.Mutex, say func(string, ...any)) error {
	held, err := job.Lock(ctx)
	if err != nil {
		return err
	}
	say("a second holder begins, and stands still")
	guard := held.Guard() // of the lock that it is about to lose
	first := held.Token()

	session, err := client.Leases().Shared(ctx)
	if err != nil {
		return err
	}
	if err := client.Leases().Revoke(ctx, session.ID()); err != nil {
		return err
	}
	<-held.Context().Done() // a running process notices at once; one that stands still does not

	// A client of its own stands for another process.
	other, err := etcdkit.Wrap(client.Raw(), etcdkit.WithNamespace(client.KV().Dir()))
	if err != nil {
		return err
	}
	defer other.Close() //nolint:errcheck // the program ends
	next, err := other.Locks().Mutex("nightly-job").Lock(ctx)
	if err != nil {
		return err
	}
	defer next.Release(ctx) //nolint:errcheck // the program ends
	say("a third acquires the lock, and its token is higher: %t", next.Token() > first)
	if _, err := other.KV().Put(ctx, "report", []byte("from the third"), kv.WithGuard(next)); err != nil {
		return err
	}

	_, err = client.KV().Put(ctx, "report", []byte("from the past"), kv.WithGuard(guard))
	say("the second wakes up and writes: refused %t, because it has lost the lock: %t", errors.Is(err, kv.ErrGuard), errors.Is(err, lock.ErrLost))
	report, err := client.KV().Get(ctx, "report")
	if err != nil {
		return err
	}
	say("the report is %s", report.Value)
	return nil
}
