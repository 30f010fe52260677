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
// # The protocol
//
// A queue is the direct children of a prefix, `dir/name/`, in the order of their create revisions. Who wants in puts a
// key at its end: `dir/name/LEASE-NONCE`, on the lease of its session. The first one owns; a key that is
// deleted, or whose lease ends, is out of the queue.
//
//	         1 RPC              watch            Release: 1 RPC
//	Lock ────────────▶ QUEUED ────────▶ HELD ───────────────────▶ (removed)
//	 │                  │  │            │ │ ▲
//	 │ no answer,       │  │            │ │ └─ Release, and the next goroutine of this process takes a turn: 1 RPC
//	 │ ctx, Close       │  │            │ └─ Close
//	 │                  │  │            │
//	 │            ctx,  │  │ session ended, key gone or overwritten
//	 │            Close │  │            │
//	 ▼                  ▼  ▼            ▼
//	SWEPT           SWEPT  ErrLost     LOST: ErrLost; the key, where it is still there, is SWEPT
//
// A waiter that gives up hands its place to the next goroutine of its process, if there is one.
//
// Enqueueing is one transaction that reads the first few keys and then puts its own. If there were none, that is the
// grant: nobody can come in front any more. It is guarded by the absence of the own key, whose name is used once, so it
// can be repeated until its answer is definite. TryLock puts its key only if there is none, in the same transaction.
//
// Whoever has to wait watches the queue: one watch for each name in use, for all goroutines, opened by the first who
// waits, or who has held for 250 ms, and kept for 30 s after the last. When the watch is live the queue is read once;
// from then on the process knows the queue as it was at some revision, which rises. The hand-over needs no further
// request: the watch has delivered that nobody is ahead, and that the own key is there. While the watch cannot be open,
// whoever waits reads the queue each half second instead.
//
// Goroutines of one process that want the same mutex stand in a line of their own, and only its head is in the queue.
// On release the next one takes over the key, and puts it once more, guarded by the mod revision that it had: so each
// turn has its own token, and its own guard. The same transaction tells whether another process waits; if so, after 16
// turns in a row the key is removed and the process enqueues anew, at the end.
//
// # Shared holds
//
// Readers and the holders of permits have queues of their own, below `name/.rw/` and `name/.sem/`, which work the same
// way but for who is admitted: a reader behind no writer; a permit when those ahead of it, holding or waiting, leave
// room for its weight. A writer is admitted when it is first, as a mutex is. Nobody overtakes, so that nobody is
// starved: neither a writer by readers, nor a permit of great weight by small ones. Shared holds are not handed on within
// a process; each has a key.
//
// # Barriers
//
//	     1 RPC            the last of n: 1 RPC for all
//	Wait ─────▶ WAITING ──────────────────────────────▶ OPEN ──▶ (key removed)
//	               │                                     │
//	               │ ctx, Close; session ended, key gone │ of a double barrier: INSIDE, until Leave removes the key
//	               ▼                                     ▼ and waits until no key of its round is left
//	           SWEPT, ErrLost
//
// The parties of a barrier have keys below `name/.bar/`. Those that wait, in order, are the rounds: the n-th of them opens
// its round by one transaction that puts all n keys again, if each is there and still waits. So all of a round are let go
// at one revision, or none; and a party that looks late finds that in its own key, which is nobody else's to remove.
// That the n-th may be slow, or die, is of no matter: until it has opened it is not there, and when its key is gone
// another is the n-th. A party of a double barrier leaves when no key of its round is there, its own included; since
// nobody joins a round that is open, that stays so.
//
// # Why it is right
//
// Exclusion in etcd. Let a place be admitted if at some revision its key was there and none that was created before.
// Create revisions only rise, so nobody gets in front of a key; the place stays first for as long as its key
// exists. Two keys cannot both be first. So at most one existing key is admitted at any revision, whatever clients do.
// With readers and permits, those ahead of a key that is admitted only become fewer, so it stays admitted. Take any
// keys that are admitted at one revision, and of these the one that came last: all others were ahead of it when it was
// admitted. So none of them is a writer beside it, and all together weigh no more than its n; it weighs the others by
// what they say, and itself by its own n.
//
// Knowledge of the grant. The enqueueing transaction reads and puts at one revision. A wait ends with a model of the
// queue at a revision that is not before the own key's: the watch was live before the queue was read, the read is
// linearizable, and the watch delivers everything after. A key that has vanished is not in that model, so that a
// candidate whose own key is gone never wins. When the watch was opened again in between it claims to have missed
// nothing; all the same the queue is read once more.
//
// Knowledge of the loss. A key goes with its lease, by release, or by the hand of a third party. The session's deadline
// is counted from before its last renewal was sent, with a margin taken off (see package lease), so that the hold's
// context ends before the lease can expire, and with it before another can be admitted. What a third party does is
// delivered to the holder and to those who wait by the same kind of watch, at about the same time.
//
// Tokens. A token is the mod revision of the own key at the grant. Mod revisions of later puts are higher, so what has
// to be shown is that the put behind a token came after those behind earlier tokens. A key that was first when it was
// put came after all. One that waited came after those ahead of it, unless these took turns meanwhile; then, or when
// that is not known for sure, as after an enqueueing that was answered late, the key is put once more before the grant
// is told. In an election nobody takes turns, and the token is the create revision.
//
// Guards. The guard of a mutex compares the mod revision of the own key with the token; a turn of the next goroutine
// changes it. That of a leadership, whose key its holder may put anew with Proclaim, compares the create revision.
// Neither comes true again.
//
// Nothing stays behind. A key is known to the process from before the first request that could create it until it is
// known to be gone. A request that was not answered may create it late, so such a key is deleted again 5 s and 15 s
// after; and a key with the mark of this process that it does not know is removed within a second or two of being seen.
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
//   - When a third party deletes the key, or revokes the lease, the former holder learns of it when the next one does:
//     within a second, usually 2 ms; for the first 250 ms of a hold on a name that no goroutine of this
//     process waits for, the key is not watched yet.
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
//	Lock and Release, contended             2; in a row of turns 1 each, and 2 more for the whole row
//	the first wait on a name                1 more, and a watch; for a mutex 1 more yet where etcd was written to meanwhile
//	a wait while the watch cannot be open   1 each half second; when it is open again 1
//	a hold longer than 250 ms               1 more, and a watch, on a name that is not watched
//	TryLock on what another process holds   1, which writes nothing
//	TryLock on what this process holds      0
//	RLock or Acquire, and Release           2
//	TryRLock, TryAcquire                    1 if refused, which writes nothing, or if nobody else is there; else 2,
//	                                        and 1 more each time that somebody comes in between
//	Multi's Lock, Verify, Release           those of each mutex
//	Barrier's Wait                          2; 1 more for the last one, and as for a first wait
//	DoubleBarrier's Enter and Leave         2; 1 more for the last one, and as for a first wait
//	Campaign and Release                    2
//	Proclaim, Leader, Verify                1
//	Observe                                 1, and a watch, for all who observe a name
//	Guard, Err, Context, Bind, Token        0
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
// A [Locker] belongs to whoever made it. Close ends waits and holds, removes their keys, and returns within about 5 s,
// also when etcd is away. Mutexes and elections are values over it and need no closing. All types are safe for
// concurrent use, but that a [DoubleBarrier] is one party, and refuses a second call at the same time.
package lock
