package kv

import (
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Entry is a key with its value and revisions. This package and the caches use it for both raw and
// typed values.
type Entry[T any] struct {
	// Key is relative to the handle that returned the entry, which accepts it as an argument.
	Key   string
	Value T
	// CreateRevision is the revision at which the key was created, ModRevision the one at which it
	// was last changed. Pass ModRevision to Replace and DeleteAt. It is also suitable as an ETag.
	CreateRevision, ModRevision int64
	// Version is the number of changes since the key was created, starting at 1. It starts again at
	// 1 when the key is created again, so it does not identify a state of the key.
	Version int64
	// Lease is the lease that the key is attached to, or 0.
	Lease clientv3.LeaseID
}

// entryOf converts what etcd returned to an entry whose key lacks the first skip bytes.
func entryOf(kv *mvccpb.KeyValue, skip int) Entry[[]byte] {
	return entryFor(string(kv.GetKey()[skip:]), kv)
}

// entryFor is like entryOf, with a given key.
func entryFor(key string, kv *mvccpb.KeyValue) Entry[[]byte] {
	return Entry[[]byte]{
		Key:            key,
		Value:          kv.GetValue(),
		CreateRevision: kv.GetCreateRevision(),
		ModRevision:    kv.GetModRevision(),
		Version:        kv.GetVersion(),
		Lease:          clientv3.LeaseID(kv.GetLease()),
	}
}
