package lease

import (
	"context"
	"slices"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// keyState is the known state of a [Key] in etcd. Key.sem guards it.
type keyState struct {
	session atomic.Pointer[Session] // may be read without sem
	release func()
	leases  []clientv3.LeaseID // leases that the key was put on, the latest last

	kv               *mvccpb.KeyValue // nil if the key does not exist
	revision         int64            // the revision as of which kv is known
	createRevision   int64            // of our key, in the current session; 0 if none
	maybeWritten     bool             // a write of ours was or may have been applied
	maybeCreatedLate bool             // a creation may still be applied

	drifted    bool               // a restore failed; reconcileLoop must try again
	cancelWait context.CancelFunc // ends the wait of waitForDrift
}

// maxLeases is how many past leases of a key are remembered. They are needed because a key can
// outlive the session that it was put on.
const maxLeases = 8

// isOurs reports whether the key belongs to this Key. It does if it is on one of our leases, or if
// it still has the create revision of our creation, even if another client has overwritten it
// since.
//
// The create revision counts only during the session in which it was recorded. After a data wipe
// revisions start again, so the key of another owner may have the same create revision; but then
// the session's lease is gone too.
func (ks *keyState) isOurs() bool {
	return ks.createRevision != 0 && ks.kv.GetCreateRevision() == ks.createRevision || ks.isOnOurLease()
}

// isOnOurLease reports whether the key exists and is on one of our leases.
func (ks *keyState) isOnOurLease() bool {
	return slices.Contains(ks.leases, clientv3.LeaseID(ks.kv.GetLease()))
}
