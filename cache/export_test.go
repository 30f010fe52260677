package cache

import "context"

// Passed waits until the watch has told of everything up to rev.
func (c *Cache[T]) Passed(ctx context.Context, rev int64) error { return c.wait(ctx, rev) }
