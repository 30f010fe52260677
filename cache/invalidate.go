package cache

import (
	"context"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// Invalidate forgets key: the next read of it asks etcd.
func (c *Cache[T]) Invalidate(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(key)
}

// InvalidateAll forgets everything.
func (c *Cache[T]) InvalidateAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetAll()
}

// enterLimbo is called before a watch begins: it will not tell what has happened since the last one, or before it is live.
func (c *Cache[T]) enterLimbo() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limbo = true
	c.forgetAll()
}

// leaveLimbo is called when the watch is live: it tells of everything that is not in reads which begin now.
func (c *Cache[T]) leaveLimbo() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limbo = false
	c.forgetAll()
}

// forgetAll drops what is known, and what is about to be. The caller holds mu.
func (c *Cache[T]) forgetAll() {
	c.changes.Add(uint64(c.policy.Len())) //nolint:gosec // is not negative
	c.policy.Purge()
	for key, f := range c.flights {
		c.abandon(key, f)
	}
}

// forget drops what is known of a key, and what is about to be. The caller holds mu.
func (c *Cache[T]) forget(key string) {
	if c.policy.Remove(key) {
		c.changes.Add(1)
	}
	if f := c.flights[key]; f != nil {
		c.abandon(key, f)
	}
}

// wrote is called after each write through Store, before it returns. rev is 0 where the outcome is unknown.
func (c *Cache[T]) wrote(_ context.Context, key string, rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rev == 0 {
		c.forget(key)
		return
	}
	// What is newer than the write may be of a history that has ended since.
	if it := c.items.get(key); it != nil && it.rev != rev {
		c.policy.Remove(key)
		c.changes.Add(1)
	}
	if f := c.flights[key]; f != nil {
		f.floor = max(f.floor, rev)
	}
}

// apply takes what the watch tells: what is in memory is replaced, and what is being read must be newer to be kept.
func (c *Cache[T]) apply(_ context.Context, b watch.Batch) error {
	for i := range b.Events {
		c.event(&b.Events[i])
	}
	return nil
}

func (c *Cache[T]) event(e *watch.Event) {
	var next *item[T]
	if c.older(e) {
		next = c.itemOf(e) // decoded outside the lock
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
	if next == nil { // it was filled just now
		c.policy.Remove(e.Key)
		return
	}
	next.touched.Store(c.items.get(e.Key).touched.Load()) // nobody has asked for it
	c.items.set(next)
}

// older reports whether an event is news about something that is in memory.
func (c *Cache[T]) older(e *watch.Event) bool {
	it := c.items.get(e.Key)
	return it != nil && it.rev < e.ModRevision
}

// itemOf is what an event says.
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
