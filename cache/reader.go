package cache

import (
	"context"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// Client is the part of *etcdkit.Client that caches use. Both results must have the same namespace.
type Client interface {
	KV() *kv.Store
	Watcher() *watch.Watcher
}

// Reader is the common interface of kv.Typed, [Cache] and [Replica], for code that works with any
// of them. Get returns kv.ErrNotFound if the key is absent, and kv.ErrDecode if its value does not
// decode.
type Reader[T any] interface {
	Get(ctx context.Context, key string) (kv.Entry[T], error)
}

// Change is a change of a key. Old.ModRevision is 0 if the key was created, New.ModRevision is 0 if
// it was deleted. Key is set in both.
type Change[T any] struct {
	Old, New kv.Entry[T]
}

// Stats counts the work of a cache or a replica.
type Stats struct {
	// Hits counts reads of a Cache that were answered from memory. A Replica does not count them.
	Hits uint64 `json:"hits"`
	// Misses counts reads of a Cache that were not answered from memory.
	Misses uint64 `json:"misses"`
	// Fills counts reads of etcd, each shared by all concurrent callers for the key.
	Fills uint64 `json:"fills"`
	// Invalidations counts entries of a Cache that were removed or replaced because of a change.
	Invalidations uint64 `json:"invalidations"`
	// Evictions counts entries of a Cache that were removed to make room.
	Evictions uint64 `json:"evictions"`
	// Stale counts reads beyond the bound: a Replica returns ErrStale, a Cache reads from etcd.
	Stale uint64 `json:"stale"`
	// BadEntries counts values that did not decode, each time they are received.
	BadEntries uint64 `json:"badEntries"`
	// Restarts counts watches that ended and were reopened.
	Restarts uint64 `json:"restarts"`
	// Entries is the current number of entries, including absent keys of a Cache.
	Entries int `json:"entries"`
	// Bad is the number of keys of a Replica whose current value does not decode.
	Bad int `json:"bad"`
}
