// Leader runs three workers, of which one leads at a time. Each leader hands over when it is told
// to stop, and an observer sees who leads.
//
//	go run ./examples/leader
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
		log.Fatalf("leader: %v", err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	client, stop, err := embedded.Connect(ctx, "example-leader")
	if err != nil {
		return err
	}
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	election := client.Locks().Election("scheduler")
	leads := make(chan string)
	var all sync.WaitGroup
	terminate := map[string]context.CancelFunc{} // stands for SIGTERM to a process
	for _, name := range []string{"ada", "grace", "linus"} {
		own, quit := context.WithCancel(ctx)
		terminate[name] = quit
		all.Go(func() {
			// Run campaigns again and again, calls the function while it leads, and resigns once it
			// returns.
			err := election.Run(own, name, func(ctx context.Context, l *lock.Leadership) error {
				select {
				case leads <- name:
				case <-ctx.Done():
				}
				<-ctx.Done() // the work ends when the leadership is lost or the process stops

				// l.Context() lasts as long as the leadership, so there is time to hand over. The
				// guard has etcd refuse the write if the leadership is lost.
				_, err := client.KV().Put(l.Context(), "handed-over-by", []byte(name), kv.WithGuard(l))
				return err
			})
			if err != nil {
				_, _ = fmt.Fprintln(out, name, "failed:", err)
			}
		})
	}
	defer all.Wait()
	defer cancel()

	for range 3 {
		var leader string
		select {
		case leader = <-leads:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := seen(ctx, election, leader); err != nil {
			return err
		}
		_, _ = fmt.Fprintln(out, "one leads, and everybody sees it")
		terminate[leader]() // it hands over
	}
	all.Wait()
	return vacant(ctx, election, out)
}

// seen waits until the observer sees the leader.
func seen(ctx context.Context, election *lock.Election, leader string) error {
	for l, err := range election.Observe(ctx) {
		if err != nil || l.Value == leader {
			return err
		}
	}
	return nil
}

func vacant(ctx context.Context, election *lock.Election, out io.Writer) error {
	for l, err := range election.Observe(ctx) {
		if err != nil {
			return err
		}
		if l.Token == 0 {
			_, _ = fmt.Fprintln(out, "nobody leads any more")
			return nil
		}
	}
	return nil
}
