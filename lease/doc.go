// Package lease keeps leases of etcd alive and says, in time, when they are not: sessions whose end is known before
// etcd can act on it, and keys that exist as long as their process does.
//
//	sessions := lease.New(cli, lease.WithNamespace("app"))
//	defer sessions.Close()
//
//	s, err := sessions.OpenSession(ctx, lease.WithTTL(10*time.Second))
//	...
//	work(s.Context()) // ends, with a cause that matches ErrExpired, before the lease does
//	s.Close()         // revokes the lease, and with it all its keys
//
// # The deadline
//
// A lease that is granted or renewed lives for its TTL from the moment at which the server did so. A client does not
// know that moment, only that it lies after its request was sent. So the deadline of a [Session] is counted from there,
// with the TTL that the server granted, and a margin is taken off for clocks that run at different speeds:
//
//	deadline = sent + TTL − max(TTL/10, 200 ms)
//
//	      sent            processed        answered                deadline            the server's expiry
//	───────┼──────────────────┼───────────────┼───────────────────────┼──────────────┼────────┼────▶
//	       ├── TTL − margin ──────────────────────────────────────────┤    margin    │
//	       │                  ├────────────────────────── TTL ──────────────────────────────────┤
//
// Nobody else can be given what the lease protects before the server's expiry, and the holder stops before that. A fuse
// (a timer that no RPC can hold up) ends the session at the deadline; [Session.Err] and the Err of [Session.Context]
// also compare the clock each time, so that the first look after a process was stopped and continued says lost, whether
// or not the timers have caught up. The clock that is compared is the monotonic one and the wall clock both: the first
// stands still while a machine sleeps. A wall clock that is set forward by more than what is left of the TTL ends the
// session too early, which is the safe side.
//
// # States
//
//	                   renewal answered
//	                ┌───────────────────┐
//	                ▼                   │
//	opened ───▶ ALIVE ── renewal ──▶ SUSPENDED      renewals fail, the deadline is not reached
//	              │      failed         │
//	              │                     │
//	              ├─────────────────────┤
//	              │                     │           deadline passed          ErrExpired
//	              ▼                     ▼           etcd has no such lease   ErrExpired, ErrNotFound
//	             LOST ◀─────────────────┘           not allowed to renew it  ErrExpired, ErrPermission
//	                                                Close, Orphan            ErrClosed
//
// Nothing leads back from lost: an answer that arrives after the deadline does not revive a session. Suspended needs no
// action; it is there to be seen. What has to exist again after a loss is the business of [Key], what must not go on is
// that of whoever listens to the context.
//
// # Renewal
//
// All sessions of a [Manager] are renewed over one stream, every third of their TTL, by one goroutine, and one more that
// reads the stream. The stream is opened when the first renewal is due and closed when the last session ends:
// nothing is renewed that nobody holds. A stream that has not answered for a fifth of the TTL counts as dead, and the
// next one is opened at another member than that one, where the client knows several; then it is tried again, with
// growing and jittered waits, until the deadline. A new stream is a new login: a token that has expired costs one
// attempt, at once. A renewal that etcd refuses because the user may not write one of the lease's keys will always be
// refused, and is a loss.
//
// Where a client has no connection, or its Lease field is not client/v3's own, that field is used, and renewals go
// through its KeepAliveOnce. Such a Lease chooses the IDs: a grant is then sent once, and may leave a lease behind when
// its answer is lost.
//
// # Keys
//
// A [Key] is desired state: it is on a shared lease and is put back whenever it is not what it is to be. What is its own
// is told by lease IDs, which are random, and, as long as the session lasts that it was created with, by the create
// revision: a key that somebody has overwritten since we created it is ours to restore; one that was deleted and then
// created by somebody else is theirs, and is left to them until it goes, unless [WithTakeover] says otherwise. So is one
// that others created after etcd has lost its data. Close deletes the key only while it is on our lease. A creation
// whose answer was lost may be applied after that, however late: such a key is deleted again from time to time, after 2 s at
// first and every 5 minutes in the end, until its lease is gone. To that end the lease takes no new keys, and is revoked with
// the last of those that it has, unless Shared has returned its session, which lasts as long as the manager.
//
// # Guarantees
//
//   - A session's context ends before the server can expire its lease, provided that neither the process is stopped nor
//     its clocks run more than a tenth slower than the server's.
//   - After the deadline, Err says lost, whatever was stopped for however long.
//   - A lease is revoked when the session is closed, also when the opening was not finished, also when the context of
//     the caller has ended; what cannot be revoked is no longer renewed and ends by itself within its TTL.
//   - A grant whose answer was lost is repeated under the same ID, which the client chose: it does not become two.
//   - Revoke says that the lease is gone, whether by its first or a repeated attempt.
//
// # What is not guaranteed
//
//   - A process that is stopped between a check and a write knows nothing. Only etcd can refuse such a write: give it
//     [Session.Guard] through kv.WithGuard, or, for other systems, a fencing token of a lock.
//   - Contexts derived from a session's end with it, by timers; only Err of the session and of its own context look at
//     the clock.
//   - What an operator does to a lease is noticed by the next renewal, after up to TTL/3.
//   - A member whose answers take longer than a fifth of the TTL is taken for dead: a TTL has to be more than five
//     round trips.
//   - etcd does not expire a lease exactly on time. A new leader gives every lease its full TTL again, so that a key may
//     outlive its session by a TTL and more.
//   - A server raises a TTL to its own minimum, 2 s with default timing. What counts is what it granted: [Session.TTL].
//
// # Costs in RPCs
//
//	OpenSession          1 (Grant), 2 when the answer took more than half of the TTL; with WithLease as KeepAliveOnce
//	a session            1 message per TTL/3 on the shared stream
//	Session.Close        1 (Revoke), also of a session that was lost
//	Shared, Acquire      0 when the session is there; a lease carries 256 of those who Acquire, and is revoked a minute
//	                     after the last of them has released it
//	Session.Guard        1 put for the first call on a session, 0 afterwards
//	OpenKey              1 transaction and a watch; Update 1; Close 1
//	Session.Verify       1, 2 if it had to restore the guard's key
//	Grant, Revoke        1
//	Describe             1
//	KeepAliveOnce        1 stream, and, on a client with a password, a login
//
// # Errors
//
// Every loss matches [ErrExpired]; what is known beyond that can be matched too: [ErrNotFound] (revoked, or expired in
// etcd), [ErrPermission], or the error of the last renewal. The shared conditions are those of package kv.
//
// # Lifetime
//
// A Manager belongs to whoever made it. Close ends all of its sessions and keys, revokes their leases and
// returns within about 5 s, also when etcd is away. Calls that are under way then end with [ErrClosed]. All types are safe
// for concurrent use.
package lease
