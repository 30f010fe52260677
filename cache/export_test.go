package cache

import "context"

// Passed waits until the watch has told of everything up to rev.
func (c *Cache[T]) Passed(ctx context.Context, rev int64) error { return c.wait(ctx, rev) }

// HasQueuedRead reports whether a linearizable read waits for one in flight to end.
func (r *Replica[T]) HasQueuedRead() bool {
	r.readIndex.mu.Lock()
	defer r.readIndex.mu.Unlock()
	return r.readIndex.next != nil
}
