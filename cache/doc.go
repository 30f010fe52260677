// Package cache answers reads of etcd from memory and bounds how stale the answers are.
//
//	users, err := cache.OpenReplica(ctx, client, "users", kv.JSON[User]()) // all keys below users/
//	if err != nil {
//		return err
//	}
//	defer users.Close()
//	e, err := users.Get(ctx, "ada") // no RPC; e.Value is a decoded User
//
//	sessions, err := cache.Open(ctx, client, "sessions", kv.JSON[Session]()) // keys that are read
//	e, err := sessions.Get(ctx, id)                  // no RPC if it was read before
//	rev, err := sessions.Store().Put(ctx, id, s)     // the next Get returns it
//
// Close a cache even if its client was closed before: it only grows stale then.
//
// # Which one to use
//
// A [Replica] holds all keys below a dir, for data that fits into memory, such as permissions,
// routes or feature flags. It can list, show several keys at one revision, and call a function for
// each change. A [Cache] holds up to [WithMaxEntries] keys that were read, including absent ones,
// for dirs that are large and unevenly read. [Reader] is what both have in common with kv.Typed.
//
// # Guarantees
//
//	bounded       Get returns nothing older than WithMaxStaleness. While the watch is live it is
//	              milliseconds old. Age bounds what may have been missed
//	monotonic     no read of a key goes back to an older state, unless the cluster was restored
//	own writes    Get shows what was written through Store of the same cache, once that returned.
//	              Cache.GetAtLeast and Replica.WaitRevision wait for writes made elsewhere
//	linearizable  GetLinearizable misses no write acknowledged to any client before the call
//
// A transaction is one change of a replica: View, All and FollowRevisions show one revision, all of
// it. Several Gets may see the revisions before and after it.
//
// A Cache does not keep a read of etcd that a change of the key has overtaken, nor return it to
// calls that began after the change. A key that was evicted is read again and never taken to be
// absent.
//
// # While the watch is down
//
// The watch is down while etcd does not answer, the connection is lost, or the member has no
// leader. Until Age passes [WithMaxStaleness] (10 s), Get answers from memory. After that, Get of a
// Replica returns [ErrStale]; Get of a Cache reads from etcd, and uses what it has read for as long
// as the bound. All, View, Len and Follow of a Replica show the last state whatever its age.
//
// The watch is reopened with pauses of up to 10 s, and delivers everything that was missed. If
// etcd's history is gone, a Replica lists again and a Cache forgets everything.
//
// # Values
//
// All callers share the values in memory and must not change them, nor what they refer to.
// Appending to a []byte is safe. [WithReadOnlyCheck] finds violations in tests.
//
// Get of a value that does not decode returns kv.ErrDecode. Otherwise a Replica treats such a key
// as absent, and reports it to the log, [Stats] and [WithBadEntry]. A codec that panics counts as
// one that does not decode.
//
// # What is not guaranteed
//
//   - A process that was stopped may answer as before for up to a quarter of a second, or a
//     fortieth of the shortest bound or TTL if that is less.
//   - A member that is cut off from the others does not know it for about 4 s with etcd's default
//     timing; Age may be too low by as much.
//   - A Get may miss what a read of etcd by the same process has just shown. GetAtLeast with that
//     entry's ModRevision does not.
//   - While the watch is down, a key that was just written through a Replica's Store is read from
//     etcd. If another client deletes it then, the Replica may show it once more.
//
// # Errors
//
// Test for kv.ErrNotFound, kv.ErrDecode, [ErrStale], [ErrClosed], [ErrInvalid], [ErrUnavailable]
// and [ErrPermission] with errors.Is. If the time is up while etcd does not answer, the error
// matches context.DeadlineExceeded and [ErrUnavailable]. The text names the key with the dir, and
// never the value.
//
// # Cost
//
// The methods document their RPCs. All watches of a dir through one client share a server-side
// watch. Other costs:
//
//	idle                 one message every 30 s ±20 % for all watches of the client
//	in use               one message each half of WithMaxStaleness, likewise
//	Store of a Replica   1 small RPC more for a write that fails or deletes nothing
//	memory of a Replica  about 130 bytes a key besides key and value, with the watch's index
package cache
