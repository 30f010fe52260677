// Package lock provides distributed mutexes, read-write mutexes, semaphores, barriers and leader
// election over etcd. A holder learns that it lost a lock before another can acquire it.
//
//	locks := client.Locks()
//
//	err := locks.Mutex("nightly-report").Do(ctx, func(ctx context.Context, h *lock.Held) error {
//		report, err := build(ctx) // ctx ends when the lock is lost
//		if err != nil {
//			return err
//		}
//		_, err = store.Put(ctx, "reports/last", report, kv.WithGuard(h)) // refused once it is lost
//		return err
//	})
//
//	lead := func(ctx context.Context, l *lock.Leadership) error { return schedule(ctx, l) }
//	err = locks.Election("scheduler").Run(ctx, "10.0.0.1:80", lead) // calls it at each election
//
// # Which one to use
//
//   - [Mutex]: one holder at a time. Lock and Do wait for it, TryLock and TryDo do not.
//   - [Multi]: several mutexes at once, all or none.
//   - [RWMutex]: many readers, or one writer.
//   - [Semaphore]: at most n holders at a time, with weights.
//   - [Barrier]: all begin when n are there.
//   - [DoubleBarrier]: all begin together and finish together.
//   - [Election]: one process leads as long as it can, and others observe it.
//
// Processes that change a single key need no lock: use Update of package kv. A listing shows one
// revision and needs no read lock.
//
// Locks are not reentrant: a goroutine that locks a mutex which it already holds waits until its
// context ends. Pass the [Held] to functions that need it.
//
// # A lock alone is not a fence
//
// A process that holds a lock can be stopped between two instructions, while its lease expires and
// another process acquires the lock. If the first one then continues with a write, only the system
// that receives the write can refuse it:
//
//   - etcd refuses a write with the [Held.Guard] of the hold, kv.WithGuard(held), once the lock
//     is lost or released. The error matches kv.ErrGuard and [ErrLost].
//   - Another system can refuse a write whose [Held.Token] is lower than the highest that it has
//     seen.
//
// Use the context to end work in time, and a guard or token to be certain.
//
// # Lifetime
//
// A client closes its locker; close a [Locker] that you have created. [Locker.Close] ends waits and
// holds, waits for the functions of Do and Run, and removes the keys; the last two take about 5 s
// each at most. Mutexes and elections need no closing.
//
// # Guarantees
//
//   - There is at most one holder of a name at a time. The context of one holder ends before the
//     lock is granted to the next, unless the process is stopped, its clocks run more than a tenth
//     slower than the server's, or a third party deletes keys or revokes leases. A leader of etcd
//     that was frozen for longer than the TTL is such a third party when it continues.
//   - A guarded write of a former holder is always refused, from the moment that its key is gone or
//     the next one is granted, whichever comes first.
//   - Tokens of a name strictly rise from holder to holder. [Held.Token] says which ones can be
//     compared.
//   - First come, first served, by the create revision of the key. Goroutines of one process share
//     one key, which yields to waiting processes after 16 turns in a row.
//   - Readers exclude writers, and a semaphore never has more than n permits, with the exceptions
//     of the first guarantee; if processes use different n, see [Semaphore]. Guards of permits are
//     as strong as those of mutexes.
//   - A barrier opens only when n parties wait at it together, with keys in etcd. All parties of a
//     round pass at one revision, or none does.
//   - A call that fails or is canceled leaves no key in the queue, even if the response to its
//     request was lost. Neither does Close.
//   - A lost lock stays lost, even if etcd still has its key. Acquiring it again uses a new
//     session.
//
// # What is not guaranteed
//
//   - If a third party deletes a holder's key or revokes its lease, the holder and the next waiter
//     learn of it at about the same time, at most within a second. In the first 250 ms of a hold,
//     the holder may learn of it only afterwards. A waiter whose own key was deleted notices within
//     36 s, and is never granted the lock meanwhile.
//   - A key without a lease in a queue blocks everyone behind it until it is deleted. Callers get a
//     [*BlockedError].
//   - A client that may write the keys can break a lock. Only etcd's roles prevent that.
//   - A process that dies holds its locks, and counts as a party of a barrier, for the TTL, 15 s by
//     default ([WithTTL]).
//   - A holder that has lost a mutex and does not release it keeps the other goroutines of its
//     process waiting, but no other process.
//
// # Other clients
//
// With [WithDir]("") a [Mutex] and an [Election] exclude, and are excluded by, those of
// client/v3/concurrency, etcdctl, jetcd and etcd's lock service. These count every key below
// "name/" as a waiter, so share only flat names with them. Two client/v3 Mutexes of one session do
// not exclude each other, because they share a key.
//
// # Cost
//
// A lock costs one RPC to acquire and one to release. The methods document their RPCs, except for
// those that depend on what else happens:
//
//	a wait                               1 more when the lock is free, 1 more if etcd was written to
//	                                     before the watch was open, and 1 more every 30 s
//	a wait while no watch can be opened  1 each 0.5 s to 5 s, for all waits of a process in one queue
//	a turn of another goroutine          1, and 3 for all turns in a row
//	a hold longer than 250 ms            a watch; 1 more if etcd was written to meanwhile
//	the first use of a Locker            1 more, which opens the session
//
// All watches of a [Locker] share one stream and need no goroutine. The protocol and its proof are
// in [docs/lock-protocol.md].
//
// # Errors
//
// Test for [ErrLocked], [ErrLost], [ErrReleased], [ErrNoLeader] and those shared with the other
// packages with errors.Is. [LockedError] and [BlockedError] hold details for errors.As.
//
// [docs/lock-protocol.md]: https://github.com/etcdkit/etcdkit/blob/main/docs/lock-protocol.md
package lock
