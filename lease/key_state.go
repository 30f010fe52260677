package lease

import (
	"context"
	"slices"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// keyState is what a [Key] has in etcd, as far as is known. It belongs to whoever has the key's turn.
type keyState struct {
	session atomic.Pointer[Session] // may be looked at by anybody
	release func()
	leases  []clientv3.LeaseID // that the key was put on, the latest last

	kv               *mvccpb.KeyValue // nil: absent
	revision         int64            // the revision as of which that is so
	createRevision   int64            // the create revision of the key that is ours, in the time of the current session; 0 for none
	maybeWritten     bool             // a write of ours was applied, or may have been
	maybeCreatedLate bool             // a creation may still be applied

	drifted    bool               // the key is not known to be what it is to be, and nothing else may happen to it
	cancelWait context.CancelFunc // ends the keeper's wait for that
}

// maxLeases is how many leases are remembered: a key can outlive the session that it was put on.
const maxLeases = 8

// isOurs reports whether the key is ours: it is on one of our leases, or has the create revision that we gave it, whatever
// somebody has put into it since. The create revision counts as long as its session lasts: after a data wipe revisions begin
// anew, and somebody else's key can have the same one, but then the session's lease is gone too.
func (ks *keyState) isOurs() bool {
	return ks.createRevision != 0 && ks.kv.GetCreateRevision() == ks.createRevision || slices.Contains(ks.leases, clientv3.LeaseID(ks.kv.GetLease()))
}
