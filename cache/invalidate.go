package cache

import (
	"context"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// Invalidate removes key from the cache. The next read of it goes to etcd.
func (c *Cache[T]) Invalidate(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(key)
}

// InvalidateAll removes all keys from the cache.
func (c *Cache[T]) InvalidateAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetAll()
}

// enterLimbo is called before a watch starts. The watch does not deliver changes made since the
// last one, or before it is live.
func (c *Cache[T]) enterLimbo() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limbo = true
	c.forgetAll()
}

// leaveLimbo is called when the watch is live. It delivers every change that reads started from now
// on do not include.
func (c *Cache[T]) leaveLimbo() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limbo = false
	c.forgetAll()
}

// forgetAll removes all items and abandons all reads in progress. The caller holds mu.
func (c *Cache[T]) forgetAll() {
	c.changes.Add(uint64(c.policy.Len())) //nolint:gosec // is not negative
	c.policy.Purge()
	for key, f := range c.flights {
		c.abandon(key, f)
	}
}

// forget removes the item of key and abandons a read in progress. The caller holds mu.
func (c *Cache[T]) forget(key string) {
	if c.policy.Remove(key) {
		c.changes.Add(1)
	}
	if f := c.flights[key]; f != nil {
		c.abandon(key, f)
	}
}

// wrote is called after each write through Store, before the write returns. rev is 0 if the outcome
// or the resulting state is unknown.
func (c *Cache[T]) wrote(_ context.Context, key string, rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rev == 0 {
		c.forget(key)
		return
	}
	// An item with a newer revision may be from a history that was replaced since.
	if it := c.items.get(key); it != nil && it.rev != rev {
		c.policy.Remove(key)
		c.changes.Add(1)
	}
	if f := c.flights[key]; f != nil {
		f.floor = max(f.floor, rev)
	}
}

// apply handles a batch of the watch. An event replaces the item in memory, and a read in progress
// is kept only if it is not older.
func (c *Cache[T]) apply(_ context.Context, b watch.Batch) error {
	for i := range b.Events {
		c.event(&b.Events[i])
	}
	return nil
}

func (c *Cache[T]) event(e *watch.Event) {
	var next *item[T]
	if c.older(e) {
		next = c.itemOf(e) // decode without holding mu
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flights[e.Key]; f != nil {
		f.floor = max(f.floor, e.ModRevision)
	}
	if !c.older(e) {
		return
	}
	c.changes.Add(1)
	if next == nil { // the item was filled just now
		c.policy.Remove(e.Key)
		return
	}
	next.touched.Store(c.items.get(e.Key).touched.Load()) // a replacement is not a use
	c.items.set(next)
}

// older reports whether an event is newer than the item in memory.
func (c *Cache[T]) older(e *watch.Event) bool {
	it := c.items.get(e.Key)
	return it != nil && it.rev < e.ModRevision
}

// itemOf returns the item that an event describes.
func (c *Cache[T]) itemOf(e *watch.Event) *item[T] {
	it := &item[T]{key: e.Key, rev: e.ModRevision, asOf: c.asOfNow()}
	if e.Type == watch.Delete {
		it.err = c.fail("get", e.Key, kv.ErrNotFound)
		return it
	}
	c.fillIn(it, kv.Entry[T]{
		Key: e.Key, CreateRevision: e.CreateRevision, ModRevision: e.ModRevision, Version: e.Version, Lease: e.Lease,
	}, e.Value)
	return it
}
