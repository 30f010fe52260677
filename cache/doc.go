// Package cache answers reads of etcd from memory, at the speed of a map, and says how old the answers can be.
//
//	users, err := cache.OpenReplica(ctx, client, "users", kv.JSON[User]())   // all of it, in memory
//	if err != nil {
//		return err
//	}
//	defer users.Close()
//	e, err := users.Get(ctx, "ada")                     // no RPC; e.Value is a decoded User
//
//	sessions, err := cache.Open(ctx, client, "sessions", kv.JSON[Session]()) // what is asked for, up to 1,000 keys
//	e, err := sessions.Get(ctx, id)                     // no RPC where it was read before
//	rev, err := sessions.Store().Put(ctx, id, s)        // the next Get shows it
//
// # Which one
//
// A [Replica] holds everything below a dir: for data that fits into memory and is read all over, such as permissions, routes,
// feature flags. It can list, show several keys as of one revision, and call a function for each change. A [Cache] holds
// the keys that are asked for, absent ones included, up to [WithMaxEntries], and reads the others from etcd: for dirs that
// are large and unevenly read. [Reader] is what both have in common with kv.Typed, so code that only reads can be given
// any of the three.
//
// Both keep decoded values, follow their dir with one server-side watch, and share that with whoever watches the same dir
// through the same client.
//
// # Consistency
//
// Four words say what a read may miss:
//
//	bounded         it is of the past, and not older than WithMaxStaleness: Get. While the watch is well, it is milliseconds
//	                old. Age says how long ago it is certain that nothing was missing
//	monotonic       what one key shows never goes back, from one read of a cache or replica to the next: all reads. A
//	                cluster that was restored from a backup is the exception: its revisions start over
//	own writes      it shows what this process has written through Store of this cache or replica, from the moment that
//	                the write returned: Get. What was written elsewhere, from its revision on: GetAtLeast of a Cache,
//	                WaitRevision of a Replica
//	linearizable    it misses no write that anybody's client had seen acknowledged when the read began: GetLinearizable
//
// GetLinearizable asks etcd for its current revision, once for all who ask at the same time, with a read that begins
// after all of them have come; then it waits until the watch has told of everything up to that revision, which on a quiet
// dir takes one message each way; then it answers from memory.
//
// A transaction that changes several keys is one change of a replica: View, All and FollowRevisions show one revision,
// all of it. Gets of several keys, one after the other, may lie before and after it, but never show the new state and then the old one.
//
// # While the watch is down
//
//	well        every change arrives as it happens; Age is about a second at the most, since a quiet watch is asked once a second
//	  |  etcd does not answer, the connection is lost, the member has no leader
//	  v
//	unheard     answers are as of the last word from etcd. Within the bound they are given
//	  |  Age passes WithMaxStaleness (10 s)
//	  v
//	too old     Replica: Get returns ErrStale. Cache: Get reads from etcd, and what it reads is good for as long as the bound
//	  |  the watch is back, and has told of everything that was missed
//	  v
//	well
//
// After a pause of the watch, etcd is asked once where it stands; well is from when the watch has come that far.
//
// The watch goes on by itself where it has stopped; where etcd's history is gone it lists anew (Replica) or forgets everything
// (Cache). All, View, Len and Follow of a replica go on showing its last state whatever its age: last known configuration is better than
// none, and Age tells.
//
// # Fills, changes and absence
//
// Each thing that a Cache knows carries the revision up to which it is known to be true. A change of the watch replaces what
// is older than it, and is ignored by what is newer. A read of etcd that is overtaken by a change of its key, or by a write through Store, is not
// kept, and not given to anybody who came after the change. All who miss a key at the same time share one read. A key
// that is found absent is remembered as absent, until the watch tells of it; a key that was evicted is read again: it is
// never taken to be absent.
//
// golang-lru decides what stays. A hit tells it only when an eighth of the cache was replaced since the last time, so a
// warm cache takes no lock.
//
// # Values are shared
//
// What is handed out is what is in memory, for everybody. Do not change it: not the elements of a slice or a map, not what a
// pointer leads to. Appending to a []byte is safe, since it has no spare capacity. [WithReadOnlyCheck] makes tests find those who do it anyway.
//
// # Values that do not decode
//
// They break nothing. Get of such a key is kv.ErrDecode, as it is from kv.Typed. A Replica leaves it out of All, View and
// Len, tells Follow that there is no value, logs it, counts it in [Stats], and reports it to [WithBadEntry]. A codec that
// panics counts as one that does not decode.
//
// # Not guaranteed
//
// The clock behind bounds and TTLs ticks forty times in the shortest of them, four times a second at least: a hit costs
// no look at the time. A process that was stopped, by SIGSTOP or with its machine, may answer as before it was
// stopped until the first tick after it goes on. A member of the cluster that is cut off from the others does not know it at
// once: for about 4 s with etcd's default timing it tells that nothing is new, and by as much Age may say too little.
// Reads and watches are not linearizable with each other: a Get may
// miss what a read of etcd by the same process has just shown; GetAtLeast with that entry's ModRevision does not. Writes through another
// handle of the same process are like writes of another process, unless they are of the Store of this cache. While the
// watch is down, a key that was just written through a Replica's Store is read from etcd; if somebody else deletes it then, the
// replica may show it once more before it has caught up.
//
// # Errors
//
// Conditions are matched with errors.Is: kv.ErrNotFound, kv.ErrDecode, [ErrStale], [ErrClosed], [ErrInvalid], [ErrUnavailable],
// [ErrPermission]. A deadline that passes while etcd is waited for is context.DeadlineExceeded and [ErrUnavailable], with
// the reason where that is known. The text is `cache: get "users/ada": reason`, with the dir. Values never appear in errors or
// logs. When the bound of staleness is passed, and when it holds again, one warning each is logged, at most once a minute; so it
// is when a watch ends and when it is followed again.
//
// # Lifetime
//
// Open and OpenReplica return when the watch is live; their ctx bounds that alone. Close ends the watch, waits for goroutines and
// for functions given to Follow, and is idempotent. A cache whose client was closed grows old, and is closed like any
// other. A watch that ends for another reason, such as a permission that was taken away, is begun anew, with growing
// pauses of up to 10 s, until it succeeds.
//
// # Cost
//
//	hit, Get of a Replica        no RPC, no allocation, no lock
//	miss                         1 RPC for all who ask
//	GetLinearizable              1 small RPC for all who ask, and a message on the stream where the dir is quiet
//	write through Store          nothing beyond the write; of a Replica, the time until the watch tells of it, and 1 small
//	                             RPC where it fails, or deletes nothing
//	idle                         one message a second and dir
//	after a pause of the watch   1 small RPC for each cache and replica
//	memory of a Replica          about 130 bytes a key besides the key and the value, the watch's own index included
package cache
