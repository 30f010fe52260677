// Quickstart shows what etcdkit does, step by step, with the results. It starts an etcd of its own when ETCD_ENDPOINTS is
// not set, and else works on that one, below the namespace quickstart/, which it empties first:
//
//	go run ./examples/quickstart
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/examples/embedded"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/lock"
	"github.com/etcdkit/etcdkit/watch"
)

// User is what we store.
type User struct {
	Name   string `json:"name"`
	Visits int    `json:"visits"`
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		log.Fatalf("quickstart: %v", err)
	}
}

func run(ctx context.Context) (err error) {
	endpoints, stopServer, err := embedded.Endpoints(ctx)
	if err != nil {
		return err
	}
	defer stopServer()

	// One client for the whole process. Open returns when etcd has answered, or says what is wrong with each endpoint.
	cfg, err := etcdkit.ConfigFromEnv() // user, password and certificates, where your etcd asks for them
	if err != nil {
		return err
	}
	cfg.Endpoints, cfg.Namespace = endpoints, "quickstart"
	client, err := etcdkit.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	fmt.Println("connected to", endpoints)

	steps := []struct {
		title string
		run   func(ctx context.Context, client *etcdkit.Client) error
	}{
		{"Start from nothing", clean},
		{"Store and read a typed value", typed},
		{"Compare and swap: one wins, one is told", swap},
		{"Many update one value, nothing is lost", update},
		{"List, at one revision", list},
		{"A write that etcd refuses once a condition is gone", guarded},
		{"A write whose outcome is known even if its answer is lost", once},
		{"Follow what happens, from the current state on", follow},
		{"A key that vanishes by itself", ttl},
		{"A session knows in time when it is over", session},
		{"A key that comes back by itself", presence},
		{"One at a time, and a leader", locks},
		{"Reads at the speed of memory", cached},
		{"Configuration that changes under a running program", configured},
		{"Is the cluster well?", health},
	}
	for i, step := range steps {
		fmt.Printf("\n%d. %s\n", i+1, step.title)
		if err := step.run(ctx, client); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	fmt.Println("\nThat is all.")
	return nil
}

func say(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }

// users is a typed store: values are Users in JSON, keys lie below users/ in the client's namespace.
func users(client *etcdkit.Client) kv.Typed[User] {
	return kv.NewTyped(client.KV(), "users", kv.JSON[User]())
}

func clean(ctx context.Context, client *etcdkit.Client) error {
	n, _, err := client.KV().DeletePrefix(ctx, "") // everything in the namespace, and nothing outside
	if err != nil {
		return err
	}
	say("removed %d keys of an earlier run below quickstart/", n)
	return nil
}

func typed(ctx context.Context, client *etcdkit.Client) error {
	if _, err := users(client).Create(ctx, "ada", User{Name: "Ada"}); err != nil {
		return err
	}
	ada, err := users(client).Get(ctx, "ada")
	if err != nil {
		return err
	}
	say("users/ada is %+v, version %d", ada.Value, ada.Version)

	_, err = users(client).Create(ctx, "ada", User{Name: "Impostor"})
	say("creating it again: %v (kv.ErrExists: %t)", err, errors.Is(err, kv.ErrExists))
	_, err = users(client).Get(ctx, "nobody")
	say("reading another: %v (kv.ErrNotFound: %t)", err, errors.Is(err, kv.ErrNotFound))
	return nil
}

func swap(ctx context.Context, client *etcdkit.Client) error {
	seen, err := users(client).Get(ctx, "ada") // two of us read the same state ...
	if err != nil {
		return err
	}
	if _, err = users(client).Replace(ctx, "ada", User{Name: "Ada Lovelace"}, seen.ModRevision); err != nil {
		return err
	}
	say("the first to replace it wins")
	_, err = users(client).Replace(ctx, "ada", User{Name: "Ada Byron"}, seen.ModRevision) // ... and both write
	var conflict *kv.ConflictError
	if !errors.As(err, &conflict) {
		return fmt.Errorf("the second should have been told: %v", err) //nolint:errorlint // it may be nil
	}
	say("the second is told that it stands at another revision than the one it read: conflict %t", conflict.Have > conflict.Want)
	return nil
}

func update(ctx context.Context, client *etcdkit.Client) error {
	const goroutines, each = 8, 5
	var wg sync.WaitGroup
	failures := make(chan error, goroutines*each)
	for range goroutines {
		wg.Go(func() {
			for range each {
				_, err := users(client).Update(ctx, "ada", func(u *User) error {
					u.Visits++
					return nil
				})
				if err != nil {
					failures <- err
				}
			}
		})
	}
	wg.Wait()
	close(failures)
	if err := <-failures; err != nil {
		return err
	}
	ada, err := users(client).Get(ctx, "ada")
	if err != nil {
		return err
	}
	say("%d goroutines counted %d visits each: %d in etcd", goroutines, each, ada.Value.Visits)
	return nil
}

func list(ctx context.Context, client *etcdkit.Client) error {
	for _, name := range []string{"grace", "linus", "rob"} {
		if _, err := users(client).Put(ctx, name, User{Name: name}); err != nil {
			return err
		}
	}
	for user, err := range users(client).List(ctx) {
		if err != nil {
			return err
		}
		say("users/%s: %+v", user.Key, user.Value)
	}
	page, err := users(client).Page(ctx, 2, "")
	if err != nil {
		return err
	}
	say("or page by page: %d of %d, and a cursor for the next", len(page.Entries), page.Total)
	return nil
}

func guarded(ctx context.Context, client *etcdkit.Client) error {
	store := client.KV()
	rev, err := store.Put(ctx, "season", []byte("open"))
	if err != nil {
		return err
	}
	// Whatever can be held and lost makes such a guard; here it is "the season has not changed since".
	errSeason := errors.New("the season is over")
	season := kv.NewGuard(errSeason, clientv3.Compare(clientv3.ModRevision("quickstart/season"), "=", rev))

	if _, err = store.Put(ctx, "order", []byte("1 ticket"), kv.WithGuard(season)); err != nil {
		return err
	}
	say("in season, the order is taken")
	if _, err = store.Put(ctx, "season", []byte("closed")); err != nil {
		return err
	}
	_, err = store.Put(ctx, "order", []byte("2 tickets"), kv.WithGuard(season))
	say("then: %v (kv.ErrGuard: %t)", err, errors.Is(err, kv.ErrGuard) && errors.Is(err, errSeason))
	return nil
}

func once(ctx context.Context, client *etcdkit.Client) error {
	// Without WithOnce, a write whose answer is lost returns kv.ErrUnknownOutcome: it may or may not have happened.
	if _, err := client.KV().Put(ctx, "payment", []byte("10 EUR"), kv.WithOnce()); err != nil {
		return err
	}
	payment, err := client.KV().Get(ctx, "payment")
	if err != nil {
		return err
	}
	say("written exactly once: %s, version %d", payment.Value, payment.Version)
	return nil
}

func follow(ctx context.Context, client *etcdkit.Client) error {
	if _, err := client.KV().Put(ctx, "stock/apples", []byte("10")); err != nil {
		return err
	}
	// The watch goes on across lost connections and members; compacted history comes as a difference.
	for batch, err := range client.Watcher().Watch(ctx, watch.Prefix("stock/"), watch.WithSnapshot()) {
		if err != nil {
			return err
		}
		for _, e := range batch.Events {
			say("%s: %s %s %s", batch.Kind, e.Type, e.Key, e.Value)
		}
		if batch.Kind == watch.Live {
			return nil
		}
		if _, err := client.KV().Put(ctx, "stock/apples", []byte("9")); err != nil {
			return err
		}
	}
	return nil
}

// deleted waits until a key is deleted.
func deleted(ctx context.Context, client *etcdkit.Client, key string, after int64) error {
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	for batch, err := range client.Watcher().Watch(ctx, watch.Key(key), watch.WithAfter(after), watch.WithDeletesOnly()) {
		if err != nil {
			return err
		}
		if len(batch.Events) > 0 {
			return nil
		}
	}
	return nil
}

func ttl(ctx context.Context, client *etcdkit.Client) error {
	rev, err := client.KV().Put(ctx, "voucher", []byte("10 %"), kv.WithTTL(2*time.Second))
	if err != nil {
		return err
	}
	say("put with a time to live of 2s")
	began := time.Now()
	if err := deleted(ctx, client, "voucher", rev); err != nil {
		return err
	}
	say("gone after %v", time.Since(began).Round(100*time.Millisecond))
	return nil
}

func session(ctx context.Context, client *etcdkit.Client) error {
	s, err := client.Leases().OpenSession(ctx, lease.WithTTL(5*time.Second))
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // it is lost by then
	if _, err = client.KV().Put(ctx, "working", []byte("on it"), kv.WithLease(s.ID())); err != nil {
		return err
	}
	say("the session is %s; its keys go when it goes", s.State())
	if err := client.Leases().Revoke(ctx, s.ID()); err != nil { // somebody ends it, or this process hangs for too long
		return err
	}
	select {
	case <-s.Context().Done(): // work that only the holder may do runs under this context
		say("its context has ended: %v", context.Cause(s.Context()))
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func presence(ctx context.Context, client *etcdkit.Client) error {
	key, err := client.Leases().OpenKey(ctx, "present/me", []byte("here I am"))
	if err != nil {
		return err
	}
	found, err := client.KV().Get(ctx, "present/me")
	if err != nil {
		return err
	}
	if _, err = client.KV().Delete(ctx, "present/me"); err != nil {
		return err
	}
	say("somebody has deleted it")
	for batch, err := range client.Watcher().Watch(ctx, watch.Key("present/me"), watch.WithAfter(found.ModRevision)) {
		if err != nil {
			return err
		}
		if e := batch.Events[0]; e.Type == watch.Put {
			say("it is back: %s", e.Value)
			break
		}
	}
	return key.Close() // now it goes
}

func locks(ctx context.Context, client *etcdkit.Client) error {
	counter := 0
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			_ = client.Locks().Mutex("counter").Do(ctx, func(context.Context, *lock.Held) error {
				counter++ // one at a time, here and in every other process
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
		_, err = client.KV().Put(ctx, "schedule", []byte("at noon"), kv.WithGuard(l)) // refused once somebody else leads
		say("%q leads, and writes what only the leader may", leader.Value)
		return err
	})
}

func cached(ctx context.Context, client *etcdkit.Client) error {
	people, err := cache.Open(ctx, client, "users", kv.JSON[User]())
	if err != nil {
		return err
	}
	defer people.Close() //nolint:errcheck // has nothing to say at the end
	for range 10_000 {
		if _, err := people.Get(ctx, "ada"); err != nil {
			return err
		}
	}
	say("10,000 reads, of which etcd saw %d", people.Stats().Fills)
	if _, err := people.Store().Put(ctx, "ada", User{Name: "Ada, Countess of Lovelace"}); err != nil {
		return err
	}
	ada, err := people.Get(ctx, "ada")
	if err != nil {
		return err
	}
	say("what is written through it is seen at once: %s", ada.Value.Name)
	return nil
}

func configured(ctx context.Context, client *etcdkit.Client) error {
	source, err := config.Open(ctx, client, "config")
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // likewise
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
