// Fenced-write protects data outside etcd. A lock alone cannot: its holder may stand still, lose
// the lock without noticing, and go on writing. So each write carries the token of the lock, and
// the store refuses a token that is lower than one it has seen. For data in etcd use kv.WithGuard:
// see examples/lock.
//
//	go run ./examples/fenced-write
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/lock"
)

var errStale = errors.New("refused: a later holder has written")

// archive stands for the other system: a database, a file server, a device. It must store the token
// with the data, and compare and write in one step, as in
//
//	UPDATE archive SET report = $1, token = $2 WHERE token <= $2
//
// where no updated row means that the write is refused.
type archive struct {
	mu     sync.Mutex
	token  int64 // the highest seen
	report string
}

func (a *archive) write(report string, token int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if token < a.token {
		return errStale
	}
	a.report, a.token = report, token
	return nil
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Fatalf("fenced-write: %v", err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	client, stop, err := embedded.Connect(ctx, "example-fenced-write")
	if err != nil {
		return err
	}
	defer stop()
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	reports := &archive{}

	first, err := client.Locks().Mutex("report").Lock(ctx)
	if err != nil {
		return err
	}
	defer first.Release(ctx) //nolint:errcheck // it is lost by then
	say("the first holder writes: %v", reports.write("of the first", first.Token()))

	if err := standStill(ctx, client); err != nil {
		return err
	}
	say("it stands still for longer than its lease lives")

	others, err := lock.New(client, lock.WithTTL(5*time.Second)) // stands for another process
	if err != nil {
		return err
	}
	defer others.Close() //nolint:errcheck // the program ends
	err = others.Mutex("report").Do(ctx, func(_ context.Context, second *lock.Held) error {
		say("a second one holds the lock, and its token is higher: %t", second.Token() > first.Token())
		return reports.write("of the second", second.Token())
	})
	if err != nil {
		return err
	}
	say("it has written, and released")
	say("the first one wakes up and goes on writing: %v", reports.write("of the past", first.Token()))
	// Checking first does not help: it may stand still between the check and the write.
	say("a check would have told it: %v", first.Verify(ctx))
	say("the report is %s", reports.report)
	return nil
}

// standStill ends the lease of the client's locks, as a suspended machine or a long pause does.
// Here an operator revokes it.
func standStill(ctx context.Context, client *etcdkit.Client) error {
	session, err := client.Leases().Shared(ctx) // the session of the client's locks
	if err != nil {
		return err
	}
	_, err = client.Raw().Revoke(ctx, session.ID())
	return err
}
