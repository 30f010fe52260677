package kv

import (
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Entry is a key, its value and where they stand in history. There is one type for raw and typed values, for this
// package and for the caches.
type Entry[T any] struct {
	// Key is as the handle that returned the entry takes it back.
	Key   string
	Value T
	// CreateRevision is the revision that created the key, ModRevision the one that last changed it. Replace and
	// DeleteAt take ModRevision; it is also the right ETag.
	CreateRevision, ModRevision int64
	// Version counts the changes since the key was created, from 1. It starts anew when the key is created again, so it
	// does not identify a state of the key.
	Version int64
	// Lease is the lease that the key ends with, 0 for none.
	Lease clientv3.LeaseID
}

// entryOf turns what etcd returned into an entry, below the first skip bytes of its key.
func entryOf(kv *mvccpb.KeyValue, skip int) Entry[[]byte] {
	return entryFor(string(kv.GetKey()[skip:]), kv)
}

// entryFor is entryOf for a key that is known.
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
