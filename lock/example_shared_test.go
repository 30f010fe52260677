package lock_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

// Readers hold the lock together. A writer holds it alone.
func ExampleRWMutex() {
	ctx := context.Background()
	p := start("rwmutex", "a")
	defer p.stop()

	m := p.locks.RWMutex("catalogue")
	one, err := m.RLock(ctx)
	must(err)
	two, err := m.RLock(ctx)
	must(err)
	_, err = m.TryLock(ctx)
	fmt.Println("write while others read:", errors.Is(err, lock.ErrLocked))
	must(one.Release(ctx))
	must(two.Release(ctx))

	err = m.Do(ctx, func(ctx context.Context, h *lock.Held) error {
		_, err := p.store.Put(ctx, "catalogue", []byte("new"), kv.WithGuard(h))
		return err
	})
	fmt.Println("write alone:", err)
	// Output:
	// write while others read: true
	// write alone: <nil>
}

// RDo runs a function under a read lock, which others can hold at the same time.
func ExampleRWMutex_RDo() {
	ctx := context.Background()
	p := start("rdo", "a")
	defer p.stop()

	m := p.locks.RWMutex("catalogue")
	err := m.RDo(ctx, func(ctx context.Context, _ *lock.Permit) error {
		_, err := m.TryRLock(ctx) // another reader
		fmt.Println(err)
		return ctx.Err()
	})
	fmt.Println(err)
	// Output:
	// <nil>
	// <nil>
}

// At most three downloads run at a time, in all processes together.
func ExampleSemaphore_Do() {
	ctx := context.Background()
	p := start("semaphore", "a")
	defer p.stop()

	downloads := p.locks.Semaphore("downloads", 3)
	err := downloads.Do(ctx, func(context.Context, *lock.Permit) error {
		fmt.Println("downloading")
		return nil
	})
	fmt.Println(err)
	// Output:
	// downloading
	// <nil>
}

// A permit of weight 7 leaves room for one of weight 1, and no more.
func ExampleSemaphore_AcquireN() {
	ctx := context.Background()
	p := start("weights", "host-a")
	defer p.stop()

	memory := p.locks.Semaphore("memory", 8)
	large, err := memory.AcquireN(ctx, 7)
	must(err)
	small, err := memory.TryAcquire(ctx)
	must(err)
	_, err = memory.TryAcquire(ctx)
	fmt.Println(err)
	must(small.Release(ctx))
	must(large.Release(ctx))
	// Output: lock: try acquire "memory": held by this process: host-a
}

// Three parties wait for each other.
func ExampleBarrier() {
	ctx := context.Background()
	p := start("barrier", "a")
	defer p.stop()

	var ready atomic.Int32
	var wg sync.WaitGroup
	for range 3 { // usually in three processes
		wg.Go(func() {
			ready.Add(1)
			must(p.locks.Barrier("start", 3).Wait(ctx))
			fmt.Println("all of", ready.Load(), "are ready")
		})
	}
	wg.Wait()
	// Output:
	// all of 3 are ready
	// all of 3 are ready
	// all of 3 are ready
}

// Two parties begin together, and none continues before both have finished.
func ExampleDoubleBarrier() {
	ctx := context.Background()
	p := start("doublebarrier", "a")
	defer p.stop()

	var finished atomic.Int32
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			party := p.locks.DoubleBarrier("migration", 2)
			must(party.Enter(ctx))
			finished.Add(1) // the work
			must(party.Leave(ctx))
			fmt.Println(finished.Load(), "have finished")
		})
	}
	wg.Wait()
	// Output:
	// 2 have finished
	// 2 have finished
}
