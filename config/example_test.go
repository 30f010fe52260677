package config_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/kv"
)

// A bound value follows its key. An invalid value does not replace a valid one.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, done := connect(ctx, "example-config")
	defer done()

	src, err := config.Open(ctx, client, "config", config.WithErrorHandler(func(string, int64, error) {
		// Count the error or raise an alert.
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer src.Close()
	rate, err := config.Bind(src, "http/rate-limit", config.WithDefault(100), config.WithValidate(func(n int) error {
		if n < 1 {
			return errors.New("must be at least 1")
		}
		return nil
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("default:", rate.Load())

	// Another client writes the key, such as etcdctl.
	seen := make(chan int)
	stop := rate.Follow(func(n int) { seen <- n })
	<-seen
	_, _ = client.KV().Put(ctx, "config/http/rate-limit", []byte("250"))
	fmt.Println("changed:", <-seen)
	stop()

	_, _ = config.Set(ctx, src, "http/rate-limit", -1) // Set does not validate; rate.Set does
	fmt.Println("after a bad value:", rate.Load())
	_, err = rate.Set(ctx, -1)
	fmt.Println(err)
	// Output:
	// default: 100
	// changed: 250
	// after a bad value: 250
	// config: set "http/rate-limit": refused by validation: must be at least 1
}

// A struct follows the keys below a directory.
func ExampleBindDir() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, done := connect(ctx, "example-bind-dir")
	defer done()
	src, err := config.Open(ctx, client, "config")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer src.Close()

	type Pool struct {
		MaxConns int           `default:"10"`
		Timeout  time.Duration `default:"5s"`
		Replicas []string      // JSON
		Auth     struct {
			User string `config:"user,required"`
		}
	}
	_, _ = config.Set(ctx, src, "db/auth/user", "shop")
	pool, err := config.BindDir[Pool](src, "db")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%+v\n", pool.Load())

	// Set writes all fields that have changed in one transaction.
	next := pool.Load()
	next.MaxConns, next.Replicas = 50, []string{"db-1", "db-2"}
	if _, err := pool.Set(ctx, next); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%+v\n", pool.Load())
	fmt.Println(src.Keys())
	// Output:
	// {MaxConns:10 Timeout:5s Replicas:[] Auth:{User:shop}}
	// {MaxConns:50 Timeout:5s Replicas:[db-1 db-2] Auth:{User:shop}}
	// [db/auth/user db/max-conns db/replicas]
}

// Update modifies the current value and preserves concurrent changes.
func ExampleValue_Update() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, done := connect(ctx, "example-update")
	defer done()
	src, err := config.Open(ctx, client, "config")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer src.Close()

	type Pool struct {
		MaxConns int `default:"10"`
		Hosts    []string
	}
	pool, err := config.BindDir[Pool](src, "db")
	if err != nil {
		fmt.Println(err)
		return
	}
	// Two processes add a host each. Neither overwrites the change of the other.
	for _, host := range []string{"db-1", "db-2"} {
		_, err := pool.Update(ctx, func(p *Pool) error {
			p.Hosts = append(p.Hosts, host)
			return nil
		})
		if err != nil {
			fmt.Println(err)
		}
	}
	fmt.Printf("%+v\n", pool.Load())
	fmt.Println(src.Keys()) // unchanged fields are not written
	rev, err := pool.Update(ctx, func(*Pool) error { return nil })
	fmt.Println(rev, err)
	// Output:
	// {MaxConns:10 Hosts:[db-1 db-2]}
	// [db/hosts]
	// 0 <nil>
}

// Single values can be read without binding them.
func ExampleGetOr() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, done := connect(ctx, "example-get")
	defer done()
	src, err := config.Open(ctx, client, "config")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer src.Close()

	_, _ = config.Set(ctx, src, "timeout", 90*time.Second)
	_, _ = config.Set(ctx, src, "hosts", []string{"a", "b"})
	fmt.Println(config.GetOr(src, "timeout", time.Second), config.GetOr(src, "debug", false))
	_, err = config.Get[int](src, "port")
	fmt.Println(err, errors.Is(err, kv.ErrNotFound))
	for key, value := range src.All() {
		fmt.Printf("%s = %s\n", key, value)
	}
	// Output:
	// 1m30s false
	// config: get "port": key not found true
	// hosts = ["a","b"]
	// timeout = 1m30s
}

// Follow reports each change below a prefix.
func ExampleSource_Follow() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, done := connect(ctx, "example-follow")
	defer done()
	src, err := config.Open(ctx, client, "config")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer src.Close()

	changes := make(chan config.Change)
	stop := src.Follow("flags/", func(c config.Change) { changes <- c })
	_, _ = config.Set(ctx, src, "flags/new-ui", true)
	_, _ = config.Set(ctx, src, "other", 1)
	_, _ = src.Delete(ctx, "flags/new-ui")
	for range 2 {
		c := <-changes
		fmt.Printf("%s: %q -> %q, absent now: %v\n", c.Key, c.Old, c.New, c.New == nil)
	}
	stop()
	// Output:
	// flags/new-ui: "" -> "true", absent now: false
	// flags/new-ui: "true" -> "", absent now: true
}

// History lists the earlier values of a key, and Rollback restores one.
func ExampleSource_Rollback() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, done := connect(ctx, "example-rollback")
	defer done()
	src, err := config.Open(ctx, client, "config")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer src.Close()

	for _, n := range []int{100, 200, 300} {
		_, _ = config.Set(ctx, src, "rate", n)
	}
	var before int64
	for e, err := range src.History(ctx, "rate") {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s\n", e.Value)
		before = e.ModRevision
	}
	if _, err := src.Rollback(ctx, "rate", before); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("now", config.GetOr(src, "rate", 0))
	// Output:
	// 300
	// 200
	// 100
	// now 100
}

// A fallback file provides values for keys that etcd does not have.
func ExampleWithFallbackFile() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, done := connect(ctx, "example-files")
	defer done()
	dir, err := os.MkdirTemp("", "config")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	fallback := filepath.Join(dir, "fallback.yaml")
	_ = os.WriteFile(fallback, []byte("rate: 10\nbanner: {text: hello}\n"), 0o600)

	_, _ = client.KV().Put(ctx, "config/rate", []byte("20"))
	src, err := config.Open(ctx, client, "config", config.WithFallbackFile(fallback), config.WithStateFile(filepath.Join(dir, "state.json")))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer src.Close()
	fmt.Println(src.Status().Origin)
	for _, key := range []string{"rate", "banner", "none"} {
		fmt.Println(key, "from", src.Provenance(key).Origin)
	}
	_, _ = src.Delete(ctx, "rate")
	fmt.Println("deleted:", config.GetOr(src, "rate", 1))
	// Output:
	// etcd
	// rate from etcd
	// banner from fallback file
	// none from defaults
	// deleted: 10
}

// An environment variable overrides the value in etcd for one process.
func ExampleWithEnvironment() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, done := connect(ctx, "example-environment")
	defer done()
	_ = os.Setenv("SHOP_HTTP_RATE_LIMIT", "50")
	defer func() { _ = os.Unsetenv("SHOP_HTTP_RATE_LIMIT") }()

	_, _ = client.KV().Put(ctx, "config/http/rate-limit", []byte("250"))
	src, err := config.Open(ctx, client, "config", config.WithEnvironment("SHOP"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer src.Close()
	rate, err := config.Bind(src, "http/rate-limit", config.WithDefault(100))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(rate.Load())
	for _, p := range rate.Provenance() {
		fmt.Println("from", p.Origin, p.Name)
	}
	// Output:
	// 50
	// from environment SHOP_HTTP_RATE_LIMIT
}

// The error of an invalid value says where the value comes from.
func ExampleBadValueError() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, done := connect(ctx, "example-bad-value")
	defer done()
	_, _ = client.KV().Put(ctx, "config/port", []byte("http"))
	src, err := config.Open(ctx, client, "config")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer src.Close()

	_, err = config.Bind[int](src, "port")
	if bad, ok := errors.AsType[*config.BadValueError](err); ok {
		fmt.Println(bad.Key, "from", bad.Origin, "cannot be decoded:", errors.Is(bad, kv.ErrDecode))
	}
	// Output: port from etcd cannot be decoded: true
}
