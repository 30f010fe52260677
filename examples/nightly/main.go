// Nightly does a job exactly once a night, however many instances of it run. Each wakes up at three
// o'clock, one gets the lock and does the job, and the others see that it is done. What the job has
// to say is stored together with the mark that it is done, under the condition that the lock is
// still held: an instance that stood still cannot do it a second time.
//
//	go run ./examples/nightly
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
	"sync/atomic"
	"syscall"
	"time"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

// job does the work of a night. If it writes to another system, that has to refuse tokens lower
// than the highest it has seen: see examples/fenced-write.
type job func(ctx context.Context, night string, token int64) (report string, err error)

// nightly does the job each night at three o'clock UTC until ctx ends. It begins with the night
// before, in case the whole fleet was down.
func nightly(ctx context.Context, client *etcdkit.Client, do job) error {
	for night := lastNight(time.Now()); ; night = night.AddDate(0, 0, 1) {
		timer := time.NewTimer(time.Until(night))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		for { // a night is not given up while etcd is down, or the job fails
			_, err := once(ctx, client, night.Format(time.DateOnly), do)
			if err == nil {
				break
			}
			log.Printf("nightly: %v", err)
			retry := time.NewTimer(time.Minute)
			select {
			case <-retry.C:
			case <-ctx.Done():
				retry.Stop()
				return ctx.Err()
			}
		}
	}
}

// lastNight returns the last time before now at which the job was due.
func lastNight(now time.Time) time.Time {
	now = now.UTC()
	due := time.Date(now.Year(), now.Month(), now.Day(), 3, 0, 0, 0, time.UTC)
	if due.After(now) {
		due = due.AddDate(0, 0, -1)
	}
	return due
}

// once does the job of a night unless it is done, and reports whether this call did it.
func once(ctx context.Context, client *etcdkit.Client, night string, do job) (did bool, err error) {
	reports := kv.NewTyped(client.KV(), "nightly", kv.JSON[string]())
	err = client.Locks().Mutex("nightly").Do(ctx, func(ctx context.Context, held *lock.Held) error {
		if _, err := reports.Get(ctx, night); !errors.Is(err, kv.ErrNotFound) {
			return err // nil: it is done
		}
		report, err := do(ctx, night, held.Token()) // ctx ends when the lock is lost
		if err != nil {
			return err
		}
		_, err = reports.Create(ctx, night, report, kv.WithGuard(held))
		did = err == nil
		return err
	})
	if err != nil {
		return false, fmt.Errorf("night %s: %w", night, err)
	}
	return did, nil
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Fatalf("nightly: %v", err)
	}
}

// run shows three nights of a fleet, without waiting for them. A fleet of yours calls nightly.
func run(ctx context.Context, out io.Writer) error {
	client, stop, err := embedded.Connect(ctx, "example-nightly")
	if err != nil {
		return err
	}
	defer stop()
	fleet := []*etcdkit.Client{client}
	for range 2 {
		another, err := embedded.Another(ctx, client)
		if err != nil {
			return err
		}
		defer another.Close() //nolint:errcheck,gocritic // two, closed at the end of the program
		fleet = append(fleet, another)
	}
	for _, night := range []string{"2026-12-01", "2026-12-02", "2026-12-03"} {
		did, jobs, err := wake(ctx, fleet, night)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(out, "%s: %d woke up, %d did it, %d job was run\n", night, len(fleet), did, jobs)
	}
	return nil
}

// wake has the whole fleet do the job of a night at once. It returns how many instances did it, and
// how often it ran.
func wake(ctx context.Context, fleet []*etcdkit.Client, night string) (did, jobs int64, err error) {
	var wg sync.WaitGroup
	var succeeded, ran atomic.Int64
	errs := make([]error, len(fleet))
	for i, client := range fleet {
		wg.Go(func() {
			did, err := once(ctx, client, night, func(context.Context, string, int64) (string, error) {
				ran.Add(1)
				return "42 accounts closed", nil
			})
			if did {
				succeeded.Add(1)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return succeeded.Load(), ran.Load(), errors.Join(errs...)
}
