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
// # Which one to use
//
// A [Replica] holds all keys below a dir, for data that fits into memory, such as permissions,
// routes or feature flags. It can list, show several keys at one revision, and call a function for
// each change. A [Cache] holds the keys that are read, including absent ones, up to
// [WithMaxEntries], and reads others from etcd: for dirs that are large and unevenly read. [Reader]
// is what both have in common with kv.Typed.
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
// it. Several Gets may see the revisions before and after it, but never go back.
//
// A Cache keeps no read of etcd that a change of its key has overtaken, and gives it to nobody who
// came after the change. A key that was evicted is read again and never taken to be absent.
//
// # While the watch is down
//
//	live       changes arrive as they happen; while there are reads, Age is at most about half of
//	  |        the bound
//	  v        etcd does not answer, the connection is lost, or the member has no leader
//	silent     Get answers with the last known state, within the bound
//	  v        Age passes WithMaxStaleness (10 s)
//	stale      Replica: Get returns ErrStale. Cache: Get reads from etcd, and uses what it has read
//	  |        for as long as the bound
//	  v        the watch is back and has delivered everything that was missed
//	live
//
// The watch is opened again by itself, with pauses of up to 10 s. If etcd's history is gone, a
// Replica lists again and a Cache forgets everything. All, View, Len and Follow of a Replica go on
// showing the last state whatever its age, and Age tells it. While the watch is live and nobody
// reads, Age goes up to about 36 s.
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
// Conditions are matched with errors.Is: kv.ErrNotFound, kv.ErrDecode, [ErrStale], [ErrClosed],
// [ErrInvalid], [ErrUnavailable], [ErrPermission]. If the time is up while etcd does not answer,
// the error matches context.DeadlineExceeded and [ErrUnavailable]. The text names the key with the
// dir, and never the value.
//
// # Lifetime
//
// [Open] and [OpenReplica] return once the watch is live. Close ends it and waits for functions
// given to Follow. A cache whose client was closed grows stale and must be closed as well.
//
// # Cost
//
//	hit, Get of a Replica  no RPC, no allocation, no lock
//	miss                   1 RPC for all callers
//	GetLinearizable        1 small RPC for all callers, and a message on a quiet stream
//	write through Store    the write; for a Replica the time until the watch delivers it, and 1
//	                       small RPC if it fails or deletes nothing
//	idle                   one message every 30 s ±20 % for all watches of the client
//	in use                 one message each half of WithMaxStaleness, likewise
//	memory of a Replica    about 130 bytes a key besides key and value, with the watch's index
//
// All watches of a dir through one client share a server-side watch.
package cache
