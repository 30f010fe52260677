package lease_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
)

// A key on the lease of a session lives as long as the session does.
func Example() {
	ctx, cli, sessions, store := connect("session")
	defer cli.Close()
	defer sessions.Close()

	s, err := sessions.OpenSession(ctx, lease.WithTTL(10*time.Second))
	must(err)
	_, err = store.Put(ctx, "workers/7", []byte("busy"), kv.WithLease(s.ID()))
	must(err)
	fmt.Println(s.State(), s.Err())

	must(s.Close()) // revokes the lease
	_, err = store.Get(ctx, "workers/7")
	fmt.Println(err)
	<-s.Context().Done()
	fmt.Println(s.State(), context.Cause(s.Context()))
	// Output:
	// alive <nil>
	// kv: get "example/session/workers/7": key not found
	// lost session closed
}

// etcd refuses a guarded write once the session's lease is gone, even if the writer does not know
// that yet.
func ExampleSession_Guard() {
	ctx, cli, sessions, store := connect("guard")
	defer cli.Close()
	defer sessions.Close()

	s, err := sessions.OpenSession(ctx)
	must(err)
	_, err = store.Put(ctx, "result", []byte("42"), kv.WithGuard(s))
	must(err)

	_, err = cli.Revoke(ctx, s.ID()) // another client does
	must(err)
	_, err = store.Put(ctx, "result", []byte("43"), kv.WithGuard(s))
	fmt.Println(errors.Is(err, kv.ErrGuard), errors.Is(err, lease.ErrExpired))
	// Output: true true
}

// A kept key is restored when it is deleted, and removed when it is closed.
func ExampleManager_OpenKey() {
	ctx, cli, sessions, store := connect("key")
	defer cli.Close()
	defer sessions.Close()

	k, err := sessions.OpenKey(ctx, "members/a", []byte("10.0.0.1:80"))
	must(err)
	_, err = store.Delete(ctx, "members/a") // by mistake
	must(err)
	for { // until it is restored
		e, err := store.Get(ctx, "members/a")
		if err == nil {
			fmt.Println(string(e.Value))
			break
		}
	}

	must(k.Close())
	_, err = store.Get(ctx, "members/a")
	fmt.Println(err)
	// Output:
	// 10.0.0.1:80
	// kv: get "example/key/members/a": key not found
}

// All namespaces of a manager share one session.
func ExampleManager_Shared() {
	ctx, cli, sessions, _ := connect("shared")
	defer cli.Close()
	defer sessions.Close()

	a, err := sessions.Shared(ctx)
	must(err)
	b, err := sessions.Namespace("elsewhere").Shared(ctx)
	must(err)
	fmt.Println(a == b, a.TTL())
	// Output: true 15s
}

// A granted lease is not renewed by the manager.
func ExampleManager_Grant() {
	ctx, cli, leases, store := connect("grant")
	defer cli.Close()
	defer leases.Close()

	granted, err := leases.Grant(ctx, time.Minute)
	must(err)
	_, err = store.Put(ctx, "offer", []byte("until further notice"), kv.WithLease(granted.ID))
	must(err)
	info, err := leases.Describe(ctx, granted.ID)
	must(err)
	fmt.Println(info.Granted, info.Keys)
	_, err = leases.KeepAliveOnce(ctx, granted.ID)
	must(err)

	must(leases.Revoke(ctx, granted.ID)) // and with it the key
	_, err = leases.Describe(ctx, granted.ID)
	fmt.Println(errors.Is(err, lease.ErrNotFound))
	// Output:
	// 1m0s [offer]
	// true
}

// Acquire spreads many keys over few leases.
func ExampleManager_Acquire() {
	ctx, cli, sessions, _ := connect("acquire")
	defer cli.Close()
	defer sessions.Close()

	used := map[clientv3.LeaseID]int{}
	var releases []func() // each to be called when its key is gone
	for range 300 {
		s, release, err := sessions.Acquire(ctx)
		must(err)
		releases = append(releases, release)
		used[s.ID()]++
	}
	fmt.Println(len(used), "leases for", len(releases), "keys")
	for _, release := range releases {
		release()
	}
	// Output: 2 leases for 300 keys
}

// Work ends when the session does. The cause of its context tells why.
func ExampleSession_Context() {
	ctx, cli, sessions, _ := connect("context")
	defer cli.Close()
	defer sessions.Close()

	s, err := sessions.OpenSession(ctx)
	must(err)
	work, stop := context.WithTimeout(s.Context(), time.Hour)
	defer stop()

	must(sessions.Revoke(ctx, s.ID())) // as an operator may
	<-work.Done()
	cause := context.Cause(work)
	fmt.Println(errors.Is(cause, lease.ErrExpired), errors.Is(cause, lease.ErrNotFound))
	fmt.Println(s.State(), s.Err())
	// Output:
	// true true
	// lost lease expired: not found
}

// A lease outlives its session: the next process adopts it with its keys.
func ExampleSession_Orphan() {
	ctx, cli, old, store := connect("orphan")
	defer cli.Close()
	defer old.Close()

	s, err := old.OpenSession(ctx, lease.WithTTL(30*time.Second))
	must(err)
	_, err = store.Put(ctx, "cursor", []byte("1234"), kv.WithLease(s.ID()))
	must(err)
	s.Orphan()

	next, err := lease.New(cli)
	must(err)
	defer next.Close()
	adopted, err := next.OpenSession(ctx, lease.WithLease(s.ID()))
	must(err)
	fmt.Println(adopted.ID() == s.ID(), adopted.State(), adopted.TTL())
	e, err := store.Get(ctx, "cursor")
	must(err)
	fmt.Println(string(e.Value))
	// Output:
	// true alive 30s
	// 1234
}

// A mutex of client/v3 uses the lease of a session.
func ExampleSession_Concurrency() {
	ctx, cli, sessions, _ := connect("concurrency")
	defer cli.Close()
	defer sessions.Close()

	s, err := sessions.OpenSession(ctx)
	must(err)
	mutex := concurrency.NewMutex(s.Concurrency(), "example/concurrency/mutex")
	must(mutex.Lock(ctx))
	fmt.Println("locked on the session's lease:", s.Concurrency().Lease() == s.ID())
	must(mutex.Unlock(ctx))
	// Output: locked on the session's lease: true
}

// A key of another owner is left alone unless WithTakeover is given.
func ExampleWithTakeover() {
	ctx, cli, sessions, store := connect("takeover")
	defer cli.Close()
	defer sessions.Close()

	_, err := store.Put(ctx, "members/a", []byte("left by a predecessor"))
	must(err)
	_, err = sessions.OpenKey(ctx, "members/a", []byte("10.0.0.1:80"))
	fmt.Println(errors.Is(err, lease.ErrExists))

	k, err := sessions.OpenKey(ctx, "members/a", []byte("10.0.0.1:80"), lease.WithTakeover())
	must(err)
	e, err := store.Get(ctx, "members/a")
	must(err)
	fmt.Println(string(e.Value))
	must(k.Close())
	// Output:
	// true
	// 10.0.0.1:80
}

// Update changes the value of a kept key, which keeps its lease.
func ExampleKey_Update() {
	ctx, cli, sessions, store := connect("update")
	defer cli.Close()
	defer sessions.Close()

	k, err := sessions.OpenKey(ctx, "members/a", []byte("ready"))
	must(err)
	must(k.Update(ctx, []byte("draining")))
	e, err := store.Get(ctx, "members/a")
	must(err)
	fmt.Println(string(e.Value), e.Lease != clientv3.NoLease, k.State())
	// Output: draining true alive
}
