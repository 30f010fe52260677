package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/kv"
)

// users returns a typed store: its values are Users in JSON, its keys lie below users/.
func users(client *etcdkit.Client) kv.Typed[User] {
	return kv.NewTyped(client.KV(), "users", kv.JSON[User]())
}

func clean(ctx context.Context, client *etcdkit.Client) error {
	n, _, err := client.KV().DeletePrefix(ctx, "") // the whole namespace, and nothing else
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
	seen, err := users(client).Get(ctx, "ada") // two clients read the same state ...
	if err != nil {
		return err
	}
	if _, err = users(client).Replace(ctx, "ada", User{Name: "Ada Lovelace"}, seen.ModRevision); err != nil {
		return err
	}
	say("the first to replace it wins")
	_, err = users(client).Replace(ctx, "ada", User{Name: "Ada Byron"}, seen.ModRevision)
	var conflict *kv.ConflictError
	if !errors.As(err, &conflict) {
		return fmt.Errorf("the second should have been told: %v", err) //nolint:errorlint // it may be nil
	}
	say("the second is refused, since the key has a newer revision: %t", conflict.Have > conflict.Want)
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
	say("%d goroutines added %d visits each: %d in etcd", goroutines, each, ada.Value.Visits)
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
	// Sessions, locks and leaderships have such guards. Here it is "the season has not changed
	// since".
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
	// Without WithOnce, a write whose answer is lost returns kv.ErrUnknownOutcome.
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
