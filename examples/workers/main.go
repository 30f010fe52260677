// Workers shares the jobs below a prefix among six workers, of which three may be busy at a time,
// wherever they run. Each job is finished once. If a worker dies, another one does its job again.
// The program empties its namespace first.
//
//	go run ./examples/workers
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

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

const jobs, workers, permits = 12, 6, 3

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Fatalf("workers: %v", err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	client, stop, err := embedded.Connect(ctx, "example-workers")
	if err != nil {
		return err
	}
	defer stop()
	if _, _, err := client.KV().DeletePrefix(ctx, ""); err != nil {
		return err
	}
	for n := range jobs {
		if _, err := client.KV().Put(ctx, fmt.Sprintf("jobs/%02d", n+1), []byte("to do")); err != nil {
			return err
		}
	}
	_, _ = fmt.Fprintln(out, jobs, "jobs for", workers, "workers")
	p := pool{client: client, slots: client.Locks().Semaphore("busy", permits), takes: 10 * time.Millisecond}
	failed := make([]error, workers)
	var all sync.WaitGroup
	for n := range workers { // goroutines here, but they may be processes
		all.Go(func() { failed[n] = p.work(ctx) })
	}
	all.Wait()
	done, err := client.KV().Count(ctx, "done/")
	left, lerr := client.KV().Count(ctx, "jobs/")
	if err := errors.Join(errors.Join(failed...), err, lerr); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "finished: %d left: %d\nmore than %d were busy at a time: %t\n", done, left, permits, p.crowded.Load())
	return nil
}

type pool struct {
	client  *etcdkit.Client
	slots   *lock.Semaphore
	takes   time.Duration
	busy    atomic.Int64 // in this process
	crowded atomic.Bool
}

// work ends when no job is left.
func (p *pool) work(ctx context.Context) error {
	for left := true; left; {
		left = false
		// First the jobs that no worker does, then those that others do, until they finish or die.
		for _, take := range []func(*lock.Mutex, context.Context, lock.Func) error{(*lock.Mutex).TryDo, (*lock.Mutex).Do} {
			todo, err := p.client.KV().Map(ctx, "jobs/")
			if err != nil {
				return err
			}
			for job := range todo { // in random order, so that workers rarely want the same
				left = true
				err := take(p.client.Locks().Mutex(job), ctx, func(ctx context.Context, held *lock.Held) error {
					// Skip a job that was finished since it was listed.
					if there, err := p.client.KV().Exists(ctx, job); err != nil || !there {
						return err
					}
					return p.slots.Do(ctx, func(ctx context.Context, _ *lock.Permit) error { return p.do(ctx, job, held) })
				})
				if err != nil && !errors.Is(err, lock.ErrLocked) && !errors.Is(err, lock.ErrLost) && !errors.Is(err, kv.ErrUnknownOutcome) {
					return err // after other errors the next listing tells whether the job is left
				}
			}
		}
	}
	return nil
}

// do does a job under its lock. ctx ends when the lock is lost; work outside etcd is then repeated.
func (p *pool) do(ctx context.Context, job string, held *lock.Held) error {
	if p.busy.Add(1) > permits {
		p.crowded.Store(true)
	}
	defer p.busy.Add(-1)
	select { // the work
	case <-time.After(p.takes):
	case <-ctx.Done():
		return ctx.Err()
	}
	// One transaction deletes the job and writes the result, if the lock is still held: so the job
	// is finished once.
	_, err := p.client.KV().Txn(ctx).Guard(held).Then(clientv3.OpDelete(job), clientv3.OpPut("done/"+job, "well")).Commit()
	return err
}
