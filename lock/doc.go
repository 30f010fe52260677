// Package lock has mutexes, read-write mutexes, semaphores, locks of several mutexes at once, barriers and leader elections,
// in etcd, that are right when things break: a holder learns of a loss before anybody else can be granted what it held, and where it cannot learn of it, etcd
// refuses its writes.
//
//	locks := client.Locks()
//
//	err := locks.Mutex("nightly-report").Do(ctx, func(ctx context.Context, h *lock.Held) error {
//		report, err := build(ctx) // ctx ends when the lock is lost
//		if err != nil {
//			return err
//		}
//		_, err = store.Put(ctx, "reports/last", report, kv.WithGuard(h)) // etcd refuses it once the lock is lost
//		return err
//	})
//
//	err := locks.Election("scheduler").Run(ctx, "10.0.0.1:80", func(ctx context.Context, l *lock.Leadership) error {
//		return schedule(ctx, l) // called again each time that this process is elected
//	})
//
// # Which lock when
//
//	one at a time, each for a moment              [Mutex]: Lock, or Do
//	one at a time, and others need not wait       [Mutex.TryLock], [Mutex.TryDo]
//	several things at once, all or none           [Multi]
//	many look on, or one changes something        [RWMutex]: RLock, or Lock
//	a few at a time, or as much as there is       [Semaphore], with weights
//	all begin when all are there                  [Barrier]
//	all begin together, and finish together       [DoubleBarrier]
//	one process does a job for as long as it can  [Election]: Run; others see who with Observe
//
// A read lock is worth its requests where reading takes long. What is read is best read at one revision, which needs no
// lock at all. A semaphore bounds load; a semaphore of one is a [Mutex] without a token.
//
// Two processes that change one key need no lock: kv.Store's Update does that, with one request and nothing to lose.
//
// # Why a lock alone is not a fence
//
// A process that holds a lock can be stopped for a minute between two instructions: by its scheduler, its hypervisor, a
// debugger. Meanwhile its lease expires and another process is granted the lock. When the first one goes on, its next
// instruction may be a write that it believes itself entitled to. No lock service can prevent that, since it is not asked.
// What it writes to can:
//
//   - Where that is etcd, give the write the hold's [Permit.Guard], with kv.WithGuard(held): etcd itself then refuses it
//     unless the hold is still there, whatever the writer believes, with an error that matches kv.ErrGuard and [ErrLost].
//   - Where it is another system, send [Held.Token] along, and have that system refuse what comes with a lower token than
//     the highest it has seen. Tokens of one name strictly rise from holder to holder. A [Permit] has none: others hold at
//     the same time, and whoever came later would shut out who came before.
//
// A context, by contrast, is for work to end in time: see below for what it guarantees. Use both.
//
// # How it works
//
// A queue is the direct children of a prefix, `dir/name/`, in the order of their create revisions. Whoever wants the lock puts a
// key at its end, `dir/name/LEASE-NONCE`, on the lease of its session, and watches the key that blocks it: the nearest one ahead, of
// a reader the nearest writer, of a permit as many as leave no room for its weight. When that is gone, or after
// 30 s, it looks at the queue again. It is granted by a read that shows its own key and nobody who blocks it, at one
// revision, and by nothing else. Nobody overtakes: neither writers nor heavy permits are starved.
//
// Goroutines of one process that want the same mutex stand in a local queue, and only its head is in etcd's. On release the next one
// takes over the key by putting it again, which makes a new token and a new guard; if another process waits, after
// 16 turns in a row the key is removed and the process enqueues anew, at the end.
//
// The parties of a [Barrier] have keys, too. Those that wait, in order, are the rounds: the n-th opens its round by one
// transaction that puts all n keys again if each still waits. So all of a round are let go at one revision, or none.
//
// A request whose outcome is unknown may create a key late. Such a key is deleted in the background until its lease is gone.
//
// The protocol and the proof that it is right are in docs/lock-protocol.md.
//
// # What is guaranteed
//
//   - At most one holder of a name at a time, as seen by the holders: the context of one ends before the next is
//     granted, provided that the process is not stopped, its clocks do not run more than a tenth slower than the
//     server's, and no third party deletes keys or revokes leases.
//   - A guarded write of a former holder is refused, without any proviso, from the moment that its key is gone or the next
//     one is granted, whichever comes first.
//   - Tokens of a name strictly rise. So do those of an election. They compare within one name of one kind of lock: not those
//     of a mutex with those of an election, also where [WithDir] puts both into one queue, nor with revisions that other
//     clients use for the purpose: the turns of a process raise the token of a key that is there already, and the next in the
//     queue may be of another kind and not know.
//   - First come, first served, by the revision of the own key. A process that keeps taking turns is overtaken after 16.
//     No reader overtakes a writer that waits, no permit one of greater weight.
//   - No writer beside readers, and never more permits than n, to the same degree; where processes say different n, than the
//     largest n of those who hold. Guards of permits are as good as those of mutexes.
//   - Nobody passes a barrier before n parties have waited at it at once, with their keys in etcd.
//   - A caller that gives up, or fails, leaves nothing in the queue, also if its answer was lost; Close the same.
//   - A loss is never healed: a hold that was lost stays lost, even if etcd would still have it. A session that has
//     ended is replaced for the next acquisition, not under a holder.
//   - Release of something that was lost returns [ErrLost]; a second Release does nothing and returns [ErrReleased].
//
// # What is not guaranteed
//
//   - A process that is stopped does not notice anything. Its writes are refused where they carry a guard or a token.
//   - When a third party deletes the key of a holder, or revokes its lease, the former holder learns of it when the next one does:
//     within a second, usually 2 ms; but for the first 250 ms of a hold its key is not watched. Whoever waits notices that its own
//     key was deleted when it looks again, within 36 s, and is not granted before.
//   - A queue key without a lease, put there by somebody, blocks for ever. It is reported as [*BlockedError].
//   - Whoever can write the keys can break the queue: locks are agreements, and permissions of etcd are walls.
//   - A process that dies holds on until its lease ends: the TTL, 15 s by default. A party of a barrier that dies is
//     counted for as long.
//   - A party that gives up, or is lost, in the moment in which its barrier opens may have been counted: the others pass.
//   - n is not kept in etcd. Parties of a barrier that say different n may wait for each other in vain.
//   - A holder that has lost a mutex and does not release it keeps the other goroutines of its own process waiting, though
//     not other processes.
//
// # No reentrancy
//
// A goroutine that holds a mutex and locks it again waits for itself, until its context ends. A reentrant lock would
// need to know who asks; Go has no identity of a goroutine, and a count in the context would let everything that
// inherits the context, in any goroutine, into the critical section at once. And a function that may be called with and
// without the lock does not know what it can rely on. Pass the [Held] to functions that need it.
//
// For the same reason a read lock cannot become a write lock: of two readers who tried that each would wait for the other.
//
// # Other clients
//
// A [Mutex] and an [Election] exclude, and are excluded by, those of client/v3/concurrency, and so etcdctl's lock and
// elect, jetcd and the lock service of etcd itself, on the same prefix: [WithDir]("") lays names as these do. These
// count every key below `name/` as a waiter, also of longer names and of the library's own queues (`name/.rw/` and
// others), so share flat names with them. client/v3's Mutex has one key for each session: two of one session do not
// exclude each other.
//
// # Costs in RPCs
//
//	Lock and Release, nobody else there     2
//	Lock and Release, after a wait          3; 1 more if etcd was written to before the watch was open; 1 more every 30 s
//	a turn of another goroutine             1, and 3 for the whole row of turns
//	a wait while no watch can be open       1 each 0.5 s to 5 s, for all of this process that wait in one queue
//	a hold longer than 250 ms               a watch; 1 more if etcd was written to meanwhile
//	TryLock on what another process holds   1, which writes nothing
//	TryLock on what this process holds      0
//	RLock or Acquire, and Release           2; after a wait as Lock
//	TryRLock, TryAcquire                    1 if refused, which writes nothing, or if nobody else is there; else 2,
//	                                        and 1 more each time that somebody comes in between
//	Multi's Lock, Verify, Release           those of each mutex
//	Barrier's Wait                          2; 1 more for the last one, and, if etcd was written to meanwhile, for those who wait
//	DoubleBarrier's Enter and Leave         2, likewise; those who wait for others to leave read the queue when one has left
//	Campaign and Release                    2; after a wait as Lock
//	Proclaim, Leader, Verify                1
//	Observe                                 1, 1 for each change, and 1 every 30 s, for all of this process who observe a name
//	Guard, Err, Context, Bind, Token        0
//
// All watches of a [Locker] share one stream, and cost no goroutine. A wait costs one event.
//
// The first use opens the session: 1 more. Where an answer is lost, requests are repeated.
//
// # Errors
//
// Conditions are matched with errors.Is: [ErrLocked], [ErrLost], [ErrReleased], [ErrNoLeader], and those shared with the
// other packages; facts are had with errors.As: [LockedError], [BlockedError].
//
// # Lifetime
//
// A [Locker] belongs to whoever made it. Close ends waits and holds, waits for the functions of Do and Run, removes the keys, and
// returns within about 5 s, or 10 s if a function does not return, also when etcd is away. So does the end of the client, but
// for the functions. Mutexes and elections are values over it and need no closing. All types are safe for
// concurrent use, but that a [DoubleBarrier] is one party, and refuses a second call at the same time.
package lock
