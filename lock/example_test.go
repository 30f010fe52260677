package lock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/lock"
	"github.com/etcdkit/etcdkit/watch"
)

// process is what one process has: the parts of a client, and a locker.
type process struct {
	*parts

	locks *lock.Locker
}

// start starts a process for an example, in a namespace of its own, which is empty at first.
func start(example, owner string) *process {
	cli, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.Endpoints(), DialTimeout: 5 * time.Second})
	must(err)
	dir := "example/lock/" + example + "/"
	p := &process{parts: &parts{
		cli: cli, dir: dir, store: etcdtest.Must(kv.New(cli, kv.WithNamespace(dir))),
		watcher: etcdtest.Must(watch.New(cli, watch.WithNamespace(dir))), leases: etcdtest.Must(lease.New(cli, lease.WithNamespace(dir))),
	}}
	p.locks = etcdtest.Must(lock.New(p.parts, lock.WithOwner(owner)))
	return p
}

func (p *process) stop() {
	must(p.locks.Close())
	must(p.leases.Close())
	must(p.watcher.Close())
	must(p.cli.Close())
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// A mutex around a function, and a write that etcd refuses once the lock is lost.
func Example() {
	ctx := context.Background()
	p := start("package", "a")
	defer p.stop()

	var lost *lock.Held
	err := p.locks.Mutex("report").Do(ctx, func(ctx context.Context, h *lock.Held) error {
		lost = h
		_, err := p.store.Put(ctx, "reports/last", []byte("42"), kv.WithGuard(h))
		return err
	})
	fmt.Println(err)

	_, err = p.store.Put(ctx, "reports/last", []byte("41"), kv.WithGuard(lost)) // too late
	fmt.Println(errors.Is(err, kv.ErrGuard))
	e, err := p.store.Get(ctx, "reports/last")
	fmt.Printf("%s %v\n", e.Value, err)
	// Output:
	// <nil>
	// true
	// 42 <nil>
}

// One at a time, with a guard on what is written.
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

// Lock and Release, and what another process sees meanwhile.
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

// Work that need not be done twice is left to the holder.
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

// This holder was stopped for too long. It does not know yet that its lock is lost, but etcd does.
func ExamplePermit_Guard() {
	ctx := context.Background()
	p := start("guard", "a")
	defer p.stop()

	held, err := p.locks.Mutex("m").Lock(ctx)
	must(err)
	_, _, err = p.store.DeletePrefix(ctx, "locks/m/") // its lease has expired
	must(err)

	_, err = p.store.Put(ctx, "resource", []byte("stale"), kv.WithGuard(held))
	fmt.Println(errors.Is(err, kv.ErrGuard), errors.Is(err, lock.ErrLost))
	// Output: true true
}

// The context of a hold ends, with the reason, when it is lost.
func ExamplePermit_Context() {
	ctx := context.Background()
	p := start("context", "a")
	defer p.stop()

	held, err := p.locks.Mutex("m").Lock(ctx)
	must(err)
	work, stop := held.Bind(ctx) // ends with ctx, too
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

// Several at once, in any order.
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

// A process that leads for as long as it can, and steps down in good order.
func ExampleElection_Run() {
	ctx, terminate := context.WithCancel(context.Background()) // by signal.NotifyContext, say
	p := start("run", "a")
	defer p.stop()

	err := p.locks.Election("scheduler").Run(ctx, "10.0.0.1:80", func(ctx context.Context, l *lock.Leadership) error {
		fmt.Println("leading")
		terminate()
		<-ctx.Done() // work until then
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

// Candidates, and a leader that says something new.
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

// Who leads, from now on.
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
