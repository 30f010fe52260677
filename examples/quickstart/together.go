package main

import (
	"context"
	"errors"
	"sync"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

func locks(ctx context.Context, client *etcdkit.Client) error {
	counter := 0
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			_ = client.Locks().Mutex("counter").Do(ctx, func(context.Context, *lock.Held) error {
				counter++ // one at a time, also among processes
				return nil
			})
		})
	}
	all.Wait()
	say("5 goroutines counted to %d, one at a time", counter)

	return client.Locks().Election("scheduler").Run(ctx, "me", func(ctx context.Context, l *lock.Leadership) error {
		leader, err := client.Locks().Election("scheduler").Leader(ctx)
		if err != nil {
			return err
		}
		// The write is refused once the leadership is lost.
		_, err = client.KV().Put(ctx, "schedule", []byte("at noon"), kv.WithGuard(l))
		say("%q leads, and writes with the guard of its leadership", leader.Value)
		return err
	})
}

func cached(ctx context.Context, client *etcdkit.Client) error {
	people, err := cache.Open(ctx, client, "users", kv.JSON[User]())
	if err != nil {
		return err
	}
	defer people.Close() //nolint:errcheck // the program ends
	for range 10_000 {
		if _, err := people.Get(ctx, "ada"); err != nil {
			return err
		}
	}
	say("10,000 reads, %d of them from etcd", people.Stats().Fills)
	if _, err := people.Store().Put(ctx, "ada", User{Name: "Ada, Countess of Lovelace"}); err != nil {
		return err
	}
	ada, err := people.Get(ctx, "ada")
	if err != nil {
		return err
	}
	say("a write through the cache is visible at once: %s", ada.Value.Name)
	return nil
}

func configured(ctx context.Context, client *etcdkit.Client) error {
	source, err := config.Open(ctx, client, "config")
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // the program ends
	limit, err := config.Bind(source, "limit", config.WithDefault(10), config.WithValidate(func(n int) error {
		if n < 1 {
			return errors.New("must be at least 1")
		}
		return nil
	}))
	if err != nil {
		return err
	}
	say("the limit is %d, by default", limit.Load())
	if _, err := limit.Set(ctx, 20); err != nil {
		return err
	}
	say("now it is %d", limit.Load())
	_, err = limit.Set(ctx, 0)
	say("then: %v; it is still %d", err, limit.Load())
	return nil
}

func discovered(ctx context.Context, client *etcdkit.Client) error {
	registry, err := discovery.New(client)
	if err != nil {
		return err
	}
	defer registry.Close()                             //nolint:errcheck // the program ends
	orders, err := registry.OpenService(ctx, "orders") // in a client of the service
	if err != nil {
		return err
	}
	changes := make(chan []discovery.Instance, 4)
	defer orders.Follow(func(all []discovery.Instance) { changes <- all })()
	say("there are %d instances", len(<-changes))

	reg, err := registry.Register(ctx, discovery.Instance{Service: "orders", ID: "orders-1", Host: "10.0.0.7", Port: 8080})
	if err != nil {
		return err
	}
	<-changes
	pick, err := orders.Picker(discovery.RoundRobin()).Pick()
	if err != nil {
		return err
	}
	say("a call goes to %s at %s", pick.Instance.ID, pick.Instance.Addr())
	pick.Done(nil) // the call has succeeded
	if err := reg.Close(); err != nil {
		return err
	}
	for len(orders.Instances()) > 0 {
		<-changes
	}
	say("the instance is deregistered, and all views show it")
	return nil
}

func health(ctx context.Context, client *etcdkit.Client) error {
	h, err := client.Health(ctx)
	if err != nil {
		return err
	}
	for _, m := range h.Members {
		say("member %s: etcd %s, leader %t, alarms %d", m.Name, m.Version, m.Leader, len(m.Alarms))
	}
	say("quorum: %t", h.Quorum)
	return nil
}
