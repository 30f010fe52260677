package cache

import (
	"context"

	"github.com/etcdkit/etcdkit/kv"
)

// Tell does for a write through Store what the store does where it tells of its writes by itself.
func (c *Cache[T]) Tell(ctx context.Context, key string, rev int64) {
	if !tells[T]() {
		c.wrote(ctx, key, rev)
	}
}

// Tell is the same for a replica.
func (r *Replica[T]) Tell(ctx context.Context, key string, rev int64) {
	if !tells[T]() {
		r.wrote(ctx, key, rev)
	}
}

func tells[T any]() bool {
	_, ok := any(kv.Typed[T]{}).(teller[T])
	return ok
}

// Passed waits until the watch has told of everything up to rev.
func (c *Cache[T]) Passed(ctx context.Context, rev int64) error { return c.wait(ctx, rev) }
