package cache

import (
	"math"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/kv"
)

// version is one version of a key. To save memory, it has fields only for what every key needs.
// Most keys have one version, no lease and small numbers, and need no meta.
type version[T any] struct {
	key            string
	value          T
	modRevision    int64
	createDistance uint32 // modRevision minus the create revision
	keyVersion     uint32
	meta           atomic.Pointer[versionMeta[T]]
}

// versionMeta holds the fields of a version that is new, deleted or leased, that does not decode or
// has a checksum, or whose numbers do not fit into version.
type versionMeta[T any] struct {
	snapshot  uint64      // the snapshot that added the version; 0 after trim
	previous  *version[T] // the version it replaced
	deleted   bool        // the key is deleted
	permanent bool        // trim keeps the versionMeta, because deleted or a field below is set

	decodeErr                  error // the value does not decode
	lease                      clientv3.LeaseID
	createRevision, keyVersion int64 // if they do not fit into the version, else 0
	checksum                   uint64
}

// mapKey returns the key.
func (v *version[T]) mapKey() string { return v.key }

// at returns the version that a snapshot contains, which is v or an earlier one, or nil if the key
// was absent.
func (v *version[T]) at(snapshot uint64) *version[T] {
	for v != nil {
		meta := v.meta.Load()
		if meta == nil {
			return v
		}
		if meta.snapshot <= snapshot {
			if meta.deleted {
				return nil
			}
			return v
		}
		v = meta.previous
	}
	return nil
}

// isDeleted reports whether v is nil or marks a deleted key.
func (v *version[T]) isDeleted() bool {
	if v == nil {
		return true
	}
	meta := v.meta.Load()
	return meta != nil && meta.deleted
}

// decodeErr returns why the value does not decode, or nil if it does.
func (v *version[T]) decodeErr() error {
	if meta := v.meta.Load(); meta != nil {
		return meta.decodeErr
	}
	return nil
}

// entry returns v as a kv.Entry.
func (v *version[T]) entry() kv.Entry[T] {
	e := kv.Entry[T]{
		Key: v.key, Value: v.value, ModRevision: v.modRevision, CreateRevision: v.modRevision - int64(v.createDistance), Version: int64(v.keyVersion),
	}
	if meta := v.meta.Load(); meta != nil {
		e.Lease = meta.lease
		if meta.keyVersion != 0 {
			e.CreateRevision, e.Version = meta.createRevision, meta.keyVersion
		}
	}
	return e
}

// newVersion returns the version of an entry. decodeErr is not nil if its value does not decode.
func newVersion[T any](e kv.Entry[T], checksum uint64, decodeErr error) (*version[T], versionMeta[T]) {
	v := &version[T]{key: e.Key, value: e.Value, modRevision: e.ModRevision}
	meta := versionMeta[T]{decodeErr: decodeErr, lease: e.Lease, checksum: checksum}
	distance := e.ModRevision - e.CreateRevision
	if distance >= 0 && distance <= math.MaxUint32 && e.Version >= 0 && e.Version <= math.MaxUint32 {
		v.createDistance, v.keyVersion = uint32(distance), uint32(e.Version)
	} else {
		meta.createRevision, meta.keyVersion = e.CreateRevision, e.Version
	}
	meta.permanent = decodeErr != nil || e.Lease != 0 || checksum != 0 || meta.keyVersion != 0
	return v, meta
}
