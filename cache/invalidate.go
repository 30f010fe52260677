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
	c.invalidateLocked(key)
}

// InvalidateAll removes all keys from the cache.
func (c *Cache[T]) InvalidateAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.invalidateAllLocked()
}

// startWarming is called before a watch starts. The watch does not deliver changes made since the
// last one, or before it is live.
func (c *Cache[T]) startWarming() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warming = true
	c.invalidateAllLocked()
}

// finishWarming is called when the watch is live. It delivers every change that reads started from
// now on do not include.
func (c *Cache[T]) finishWarming() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warming = false
	c.invalidateAllLocked()
}

// invalidateAllLocked removes all items and detaches all reads in progress. The caller holds mu.
func (c *Cache[T]) invalidateAllLocked() {
	c.invalidations.Add(uint64(c.policy.Len())) //nolint:gosec // is not negative
	c.policy.Purge()
	for key, f := range c.fetchCalls {
		c.detach(key, f)
	}
}

// invalidateLocked removes the item of key and detaches a read in progress. The caller holds mu.
func (c *Cache[T]) invalidateLocked(key string) {
	if c.policy.Remove(key) {
		c.invalidations.Add(1)
	}
	if f := c.fetchCalls[key]; f != nil {
		c.detach(key, f)
	}
}

// onWrite is called after each write through Store, before the write returns. rev is 0 if the
// outcome or the resulting state is unknown.
func (c *Cache[T]) onWrite(_ context.Context, key string, rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rev == 0 {
		c.invalidateLocked(key)
		return
	}
	// An item with a newer revision may be from a history that was replaced since.
	if it := c.items.get(key); it != nil && it.rev != rev {
		c.policy.Remove(key)
		c.invalidations.Add(1)
	}
	if f := c.fetchCalls[key]; f != nil {
		f.minRevision = max(f.minRevision, rev)
	}
}

// onBatch handles a batch of the watch. An event replaces the item in memory, and a read in
// progress is kept only if it is not older.
func (c *Cache[T]) onBatch(_ context.Context, b watch.Batch) error {
	for i := range b.Events {
		c.onEvent(&b.Events[i])
	}
	return nil
}

// onEvent handles an event.
func (c *Cache[T]) onEvent(e *watch.Event) {
	var next *item[T]
	if c.isNewer(e) {
		next = c.newItem(e) // decode without holding mu
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.fetchCalls[e.Key]; f != nil {
		f.minRevision = max(f.minRevision, e.ModRevision)
	}
	if !c.isNewer(e) {
		return
	}
	c.invalidations.Add(1)
	if next == nil { // the item was filled just now
		c.policy.Remove(e.Key)
		return
	}
	next.touched.Store(c.items.get(e.Key).touched.Load()) // a replacement is not a use
	c.items.set(next)
}

// isNewer reports whether an event is newer than the item in memory.
func (c *Cache[T]) isNewer(e *watch.Event) bool {
	it := c.items.get(e.Key)
	return it != nil && it.rev < e.ModRevision
}

// newItem returns the item that an event describes.
func (c *Cache[T]) newItem(e *watch.Event) *item[T] {
	it := &item[T]{key: e.Key, rev: e.ModRevision, asOf: c.watchedAsOf()}
	if e.Type == watch.Delete {
		it.err = c.opError("get", e.Key, kv.ErrNotFound)
		return it
	}
	c.setValue(it, kv.Entry[T]{
		Key: e.Key, CreateRevision: e.CreateRevision, ModRevision: e.ModRevision, Version: e.Version, Lease: e.Lease,
	}, e.Value)
	return it
}
