package etcdtest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/lock"
)

// Each test has a client with a namespace of its own.
func Example() {
	t := newT() // a test has its t
	defer t.Finish()

	client := etcdtest.Open(t)
	if _, err := client.KV().Put(t.Context(), "greeting", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	entry, err := client.KV().Get(t.Context(), "greeting")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s\n", entry.Value)
	// Output: hello
}

// A client that is cut off from etcd learns that it lost its lock before another can acquire it.
func Example_failure() {
	t := newT() // a test has its t
	defer t.Finish()

	server := etcdtest.Start(t)
	network := server.Proxy()
	client := etcdtest.OpenConfig(t, network.Config())
	held, err := client.Locks().Mutex("nightly").Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	network.Blackhole()
	<-held.Context().Done()
	fmt.Println("lost:", errors.Is(held.Err(), lock.ErrLost))

	other := server.Open(t)
	_, err = other.Locks().Mutex("nightly").Lock(t.Context())
	fmt.Println("acquired:", err == nil)
	// Output:
	// lost: true
	// acquired: true
}

// Two clients with one Config share a namespace, as replicas of a program do.
func ExampleConfig() {
	t := newT() // a test has its t
	defer t.Finish()

	config := etcdtest.Config(t)
	a, b := etcdtest.OpenConfig(t, config), etcdtest.OpenConfig(t, config)
	if _, err := a.Locks().Mutex("nightly").Lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := b.Locks().Mutex("nightly").TryLock(t.Context())
	fmt.Println(errors.Is(err, lock.ErrLocked))
	// Output: true
}

// A network that refuses connections makes etcd unavailable for the clients of one proxy.
func ExampleProxy() {
	t := newT() // a test has its t
	defer t.Finish()

	network := etcdtest.Start(t).Proxy()
	client := etcdtest.OpenConfig(t, network.Config())

	network.Refuse()
	network.Cut()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := client.KV().Get(ctx, "k")
	fmt.Println("refused:", errors.Is(err, etcdkit.ErrUnavailable))

	network.Heal()
	_, err = client.KV().Exists(t.Context(), "k")
	fmt.Println("healed:", err == nil)
	// Output:
	// refused: true
	// healed: true
}

// A killed server keeps its data.
func ExampleServer_Kill() {
	t := newT() // a test has its t
	defer t.Finish()

	server := etcdtest.Start(t)
	client := server.Open(t)
	if _, err := client.KV().Put(t.Context(), "k", []byte("v")); err != nil {
		t.Fatal(err)
	}

	server.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := client.KV().Get(ctx, "k")
	fmt.Println("down:", errors.Is(err, etcdkit.ErrUnavailable))

	server.Restart()
	_, err = client.KV().Get(t.Context(), "k")
	fmt.Println("up again:", err == nil)
	// Output:
	// down: true
	// up again: true
}

// A session is lost when its lease ends.
func ExampleServer_ExpireLease() {
	t := newT() // a test has its t
	defer t.Finish()

	server := etcdtest.Start(t)
	client := server.Open(t)
	session, err := client.Leases().OpenSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := server.ExpireLease(t.Context(), session.ID()); err != nil {
		t.Fatal(err)
	}
	<-session.Context().Done()
	fmt.Println(errors.Is(session.Err(), lease.ErrExpired))
	// Output: true
}

// A test counts the requests of the code under test.
func ExampleServer_Requests() {
	t := newT() // a test has its t
	defer t.Finish()

	server := etcdtest.Start(t)
	client := server.Open(t)
	before := server.Requests()
	for range 3 {
		if _, err := client.KV().Put(t.Context(), "k", nil); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println(server.Requests()["KV/Put"] - before["KV/Put"])
	// Output: 3
}

// A cluster of three survives the loss of its leader.
func ExampleStartCluster() {
	t := newT() // a test has its t
	defer t.Finish()

	cluster := etcdtest.StartCluster(t, 3)
	client := cluster.Open(t)
	old := cluster.Leader(t)
	old.Kill()

	_, err := client.KV().Put(t.Context(), "k", []byte("v"), kv.WithOnce()) // repeated until its outcome is known
	fmt.Println(err == nil, cluster.Leader(t) != old)
	// Output: true true
}

// A test that needs etcd 3.7 is skipped on other servers.
//
//nolint:testableexamples // servers may lack the feature, and an example cannot be skipped
func ExampleRequires() {
	t := newT() // a test has its t
	defer t.Finish()

	etcdtest.Requires(t, etcdtest.RangeStream) // skips the test on etcd 3.6
	client := etcdtest.Open(t)
	for entry, err := range client.KV().List(t.Context(), "") { // one stream
		fmt.Println(entry.Key, err)
	}
}
