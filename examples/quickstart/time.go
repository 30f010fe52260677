package main

import (
	"context"
	"time"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

func follow(ctx context.Context, client *etcdkit.Client) error {
	if _, err := client.KV().Put(ctx, "stock/apples", []byte("10")); err != nil {
		return err
	}
	// The watch survives lost connections and members. After a compaction it delivers the
	// difference.
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
	say("put with a TTL of 2 s")
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
	say("the session is %s; its keys last as long as it does", s.State())
	// As an operator does. A process that hangs for too long has the same effect.
	if err := client.Leases().Revoke(ctx, s.ID()); err != nil {
		return err
	}
	select {
	case <-s.Context().Done(): // the context of the work
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
	say("another client has deleted it")
	for batch, err := range client.Watcher().Watch(ctx, watch.Key("present/me"), watch.WithAfter(found.ModRevision)) {
		if err != nil {
			return err
		}
		if e := batch.Events[0]; e.Type == watch.Put {
			say("it is restored: %s", e.Value)
			break
		}
	}
	return key.Close() // deletes the key
}
