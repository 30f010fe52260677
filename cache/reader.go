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
	Hits          uint64 `json:"hits"`          // reads of a Cache answered from memory; not counted by a Replica, which always does
	Misses        uint64 `json:"misses"`        // reads of a Cache not answered from memory
	Fills         uint64 `json:"fills"`         // reads of etcd, each shared by all concurrent callers for the key
	Invalidations uint64 `json:"invalidations"` // entries of a Cache removed or replaced because of a change
	Evictions     uint64 `json:"evictions"`     // entries of a Cache removed to make room
	Stale         uint64 `json:"stale"`         // reads beyond the bound: a Replica returns ErrStale, a Cache reads from etcd
	BadEntries    uint64 `json:"badEntries"`    // values that did not decode, counted each time they are received
	Restarts      uint64 `json:"restarts"`      // watches that ended and were reopened
	Entries       int    `json:"entries"`       // current number of entries, including absent keys of a Cache
	Bad           int    `json:"bad"`           // keys of a Replica whose current value does not decode
}
