package lock_test

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

// A function runs under a mutex. etcd refuses its guarded write once the lock is lost.
func Example() {
	ctx := context.Background()
	p := start("package", "a")
	defer p.stop()

	var released *lock.Held
	err := p.locks.Mutex("report").Do(ctx, func(ctx context.Context, h *lock.Held) error {
		released = h
		_, err := p.store.Put(ctx, "reports/last", []byte("42"), kv.WithGuard(h))
		return err
	})
	fmt.Println(err)

	_, err = p.store.Put(ctx, "reports/last", []byte("41"), kv.WithGuard(released)) // too late
	fmt.Println(errors.Is(err, kv.ErrGuard))
	e, err := p.store.Get(ctx, "reports/last")
	fmt.Printf("%s %v\n", e.Value, err)
	// Output:
	// <nil>
	// true
	// 42 <nil>
}

// Do runs a function under a mutex. The guard makes etcd refuse the write if the lock is lost.
func ExampleMutex_Do() {
	ctx := context.Background()
	p := start("do", "a")
	defer p.stop()

	err := p.locks.Mutex("report").Do(ctx, func(ctx context.Context, h *lock.Held) error {
		_, err := p.store.Put(ctx, "reports/last", []byte("42"), kv.WithGuard(h))
		return err
	})
	fmt.Println(err)
	// Output: <nil>
}

// While one process holds a mutex, TryLock of another returns the owner. Tokens rise from holder to
// holder.
func ExampleMutex_Lock() {
	ctx := context.Background()
	a, b := start("lock", "host-a"), start("lock", "host-b")
	defer a.stop()
	defer b.stop()

	held, err := a.locks.Mutex("m").Lock(ctx)
	must(err)
	_, err = b.locks.Mutex("m").TryLock(ctx)
	locked, _ := errors.AsType[*lock.LockedError](err)
	fmt.Println(errors.Is(err, lock.ErrLocked), locked.Owner, locked.Token == held.Token())

	must(held.Release(ctx))
	next, err := b.locks.Mutex("m").Lock(ctx)
	must(err)
	fmt.Println(next.Token() > held.Token())
	must(next.Release(ctx))
	fmt.Println(next.Release(ctx))
	// Output:
	// true host-a true
	// true
	// lock: release "m": lock released
}

// TryDo skips work that another owner is doing.
func ExampleMutex_TryDo() {
	ctx := context.Background()
	p := start("trydo", "a")
	defer p.stop()

	cleanup := p.locks.Mutex("cleanup")
	err := cleanup.TryDo(ctx, func(ctx context.Context, _ *lock.Held) error {
		again := cleanup.TryDo(ctx, func(context.Context, *lock.Held) error { return nil })
		fmt.Println(errors.Is(again, lock.ErrLocked))
		return nil
	})
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}

// The holder was stopped for too long and does not know yet that its lock is lost. etcd refuses its
// guarded write.
func ExampleHeld_guard() {
	ctx := context.Background()
	p := start("guard", "a")
	defer p.stop()

	held, err := p.locks.Mutex("m").Lock(ctx)
	must(err)
	_, _, err = p.store.DeletePrefix(ctx, "locks/m/") // as when its lease has expired
	must(err)

	_, err = p.store.Put(ctx, "resource", []byte("stale"), kv.WithGuard(held))
	fmt.Println(errors.Is(err, kv.ErrGuard), errors.Is(err, lock.ErrLost))
	// Output: true true
}

// The context of a hold ends when the hold is lost. Its cause tells why.
func ExampleHeld_context() {
	ctx := context.Background()
	p := start("context", "a")
	defer p.stop()

	held, err := p.locks.Mutex("m").Lock(ctx)
	must(err)
	work, stop := held.Bind(ctx) // ends with ctx as well
	defer stop()
	_, _, err = p.store.DeletePrefix(ctx, "locks/m/") // an operator
	must(err)
	<-work.Done()
	fmt.Println(context.Cause(work))
	fmt.Println(held.Release(ctx))
	// Output:
	// lock lost: its key was deleted
	// lock: release "m": lock lost: its key was deleted
}

// Multi locks several mutexes together. Transfers that name them in any order cannot deadlock.
func ExampleMulti() {
	ctx := context.Background()
	p := start("multi", "a")
	defer p.stop()

	from, to := p.locks.Mutex("account-7"), p.locks.Mutex("account-3")
	both, err := p.locks.Multi(from, to).Lock(ctx)
	must(err)
	fmt.Println(both.Token(from) > both.Token(to), both.Err())
	_, err = p.store.Put(ctx, "transfers/1", []byte("100"), kv.WithGuard(both))
	must(err)
	fmt.Println(both.Release(ctx))
	// Output:
	// true <nil>
	// <nil>
}

// Run leads for as long as possible, and hands over before it resigns.
func ExampleElection_Run() {
	ctx, terminate := context.WithCancel(context.Background()) // or signal.NotifyContext
	p := start("run", "a")
	defer p.stop()

	err := p.locks.Election("scheduler").Run(ctx, "10.0.0.1:80", func(ctx context.Context, l *lock.Leadership) error {
		fmt.Println("leading")
		terminate()
		<-ctx.Done() // lead until then
		_, err := p.store.Put(l.Context(), "scheduler/state", []byte("handed over"), kv.WithGuard(l))
		return err
	})
	fmt.Println(err)
	_, err = p.locks.Election("scheduler").Leader(context.Background())
	fmt.Println(err)
	// Output:
	// leading
	// <nil>
	// lock: leader "scheduler": no leader
}

// A leader replaces the value that others see.
func ExampleElection_Campaign() {
	ctx := context.Background()
	p := start("campaign", "a")
	defer p.stop()

	e := p.locks.Election("e")
	leader, err := e.Campaign(ctx, "starting")
	must(err)
	must(leader.Proclaim(ctx, "ready"))
	now, err := e.Leader(ctx)
	must(err)
	fmt.Println(now.Value, now.Token == leader.Token())
	must(leader.Release(ctx)) // resigns
	// Output: ready true
}

// Observe yields each leader, and the zero Leader while there is none.
func ExampleElection_Observe() {
	ctx := context.Background()
	p := start("observe", "a")
	defer p.stop()

	e := p.locks.Election("e")
	var leader *lock.Leadership
	for l, err := range e.Observe(ctx) {
		must(err)
		switch {
		case l.Token != 0:
			fmt.Println("leader", l.Value)
			must(leader.Release(ctx))
		case leader == nil:
			fmt.Println("vacant")
			leader, err = e.Campaign(ctx, "a")
			must(err)
		default:
			fmt.Println("vacant again")
			return
		}
	}
	// Output:
	// vacant
	// leader a
	// vacant again
}

// With WithDir(""), locks and those of client/v3/concurrency exclude each other.
func ExampleWithDir() {
	ctx := context.Background()
	p := start("dir", "a")
	defer p.stop()
	locks, err := lock.New(p.parts, lock.WithDir(""))
	must(err)
	defer locks.Close()

	session, err := concurrency.NewSession(p.cli)
	must(err)
	defer session.Close()
	other := concurrency.NewMutex(session, "example/lock/dir/m") // with the namespace
	must(other.Lock(ctx))
	_, err = locks.Mutex("m").TryLock(ctx)
	fmt.Println(errors.Is(err, lock.ErrLocked))
	must(other.Unlock(ctx))
	held, err := locks.Mutex("m").TryLock(ctx)
	must(err)
	must(held.Release(ctx))
	// Output: true
}

// Data below the name of a lock blocks its queue until an operator deletes it.
func ExampleBlockedError() {
	ctx := context.Background()
	p := start("blocked", "a")
	defer p.stop()

	_, err := p.store.Put(ctx, "locks/m/data", []byte("no waiter"))
	must(err)
	_, err = p.locks.Mutex("m").Lock(ctx)
	if blocked, ok := errors.AsType[*lock.BlockedError](err); ok {
		fmt.Println(blocked.Name, "is blocked by", blocked.Key)
	}
	_, err = p.store.Delete(ctx, "locks/m/data")
	must(err)
	// Output: m is blocked by locks/m/data
}
