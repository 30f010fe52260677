package cache

import (
	"context"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// Client is what caches need of a client, which *etcdkit.Client has. Both parts are of the same namespace.
type Client interface {
	KV() *kv.Store
	Watcher() *watch.Watcher
}

// Reader is what kv.Typed, [Cache] and [Replica] have in common, so that code which reads can be given any of them. An
// absent key is kv.ErrNotFound, a value that does not decode is kv.ErrDecode.
type Reader[T any] interface {
	Get(ctx context.Context, key string) (kv.Entry[T], error)
}

// Change is what happened to a key. Old.ModRevision is 0 where it was created, New.ModRevision is 0 where it is gone; both
// have the Key.
type Change[T any] struct {
	Old, New kv.Entry[T]
}

// Stats counts what a cache or a replica did.
type Stats struct {
	Hits          uint64 `json:"hits"`          // reads that a Cache answered from memory; a Replica, which answers all so, does not count
	Misses        uint64 `json:"misses"`        // reads that a Cache did not
	Fills         uint64 `json:"fills"`         // reads of etcd, each for all who asked for the key meanwhile
	Invalidations uint64 `json:"invalidations"` // entries of a Cache that were dropped or replaced for having changed
	Evictions     uint64 `json:"evictions"`     // entries of a Cache that made room for others
	Stale         uint64 `json:"stale"`         // reads that found the watch too old: refused by a Replica, sent to etcd by a Cache
	BadEntries    uint64 `json:"badEntries"`    // values that did not decode, each time that one came
	Restarts      uint64 `json:"restarts"`      // watches that ended and were begun anew
	Entries       int    `json:"entries"`       // how many there are now, absent keys that a Cache remembers included
	Bad           int    `json:"bad"`           // keys of a Replica whose value, as it is now, does not decode
}
