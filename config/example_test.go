package config_test

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

// connect makes a client with a namespace of its own; *etcdkit.Client is one, too.
func connect(ctx context.Context, name string) (client *parttest.Parts, done func()) {
	cli, err := clientv3.New(clientv3.Config{Endpoints: etcdtest.Endpoints(), DialTimeout: 5 * time.Second})
	if err != nil {
		stdlog.Fatal(err)
	}
	client = parttest.Of(cli, name)
	return client, func() {
		_, _, _ = client.KV().DeletePrefix(ctx, "")
		_ = client.Watcher().Close()
		_ = cli.Close()
	}
}

func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, done := connect(ctx, "example-config")
	defer done()

	src, err := config.Open(ctx, client, "config", config.WithErrorHandler(func(string, int64, error) {
		// a counter or an alert in your program
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

	// Somebody else puts a key, with etcdctl for instance.
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

	// All fields that have changed, in one transaction: nobody sees some of them changed and others
	// not.
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
	// Two processes add a host each: neither loses what the other has written.
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
	fmt.Println(src.Keys()) // what f has not changed is not written
	rev, err := pool.Update(ctx, func(*Pool) error { return nil })
	fmt.Println(rev, err)
	// Output:
	// {MaxConns:10 Hosts:[db-1 db-2]}
	// [db/hosts]
	// 0 <nil>
}

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
