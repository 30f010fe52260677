// Package lease keeps etcd leases alive. A session's context ends before etcd can expire its lease,
// and a key stays in etcd as long as the process that keeps it.
//
//	sessions := client.Leases()
//
//	s, err := sessions.OpenSession(ctx, lease.WithTTL(10*time.Second))
//	if err != nil {
//		return err
//	}
//	defer s.Close()   // revokes the lease, and with it deletes all its keys
//	work(s.Context()) // ends with a cause that matches ErrExpired, before the lease does
//
//	key, err := sessions.OpenKey(ctx, "instances/a", []byte("10.0.0.7")) // restored if it is lost
//
// # Sessions
//
// A [Session] is one lease. Its deadline is counted from before the last answered renewal was sent,
// with the TTL that the server granted:
//
//	deadline = sent + TTL - max(TTL/10, 200ms)
//
// A timer that waits for no RPC ends the session at the deadline. A [Suspended] session needs no
// action. A lost session stays lost: open a new one. [docs/lease-deadline.md] shows a partition
// step by step.
//
// # Keys
//
// A [Key] is on a lease that the keys and sessions of the manager share. It is restored after its
// lease was lost, after somebody deleted or overwrote it, and after an outage of any length. A key
// that somebody else has created after a deletion belongs to them, unless [WithTakeover] is given.
// Close deletes the key only while it is on a lease of this process.
//
// # Lifetime
//
// A client closes its manager; close a [Manager] that you have created. [Manager.Close] ends all
// sessions and keys and revokes their leases, within about 5 s. Calls in progress end with
// [ErrClosed].
//
// # Guarantees
//
//   - A session's context ends before the server can expire its lease, unless the process is
//     stopped or its clocks run more than a tenth slower than the server's.
//   - After the deadline, [Session.Err] and the Err of [Session.Context] report the loss, even if
//     the process was stopped meanwhile, because they also compare the clocks.
//   - The lease of a session that is closed, or that could not be opened, is revoked. If that
//     fails, it expires within its TTL.
//   - A grant whose response was lost is repeated without granting a second lease. [Manager.Grant]
//     names the exception.
//
// # What is not guaranteed
//
//   - A process that is stopped between a check and a write does not notice anything. Only etcd can
//     refuse such a write: give it [Session.Guard] through kv.WithGuard. For other systems, use the
//     fencing token of a lock.
//   - Contexts derived from a session's end by timers, and do not compare the clocks.
//   - A lease that an operator revokes is noticed by the next renewal, after up to TTL/3. So is one
//     that a leader of etcd revokes when it continues after it was frozen for longer than the TTL.
//   - A member that takes longer than a fifth of the TTL to answer counts as dead: a TTL must be
//     more than five round trips.
//   - A key may outlive its session by a TTL and more: a new leader gives every lease its full TTL
//     again.
//
// # Cost
//
// The methods document their RPCs; closing a session or a key costs one. Each session sends a
// message per TTL/3, on one stream for all sessions of the manager. A manager runs two goroutines
// while it has sessions.
//
// # Errors
//
// Every loss matches [ErrExpired], and also [ErrNotFound] if the lease was revoked or has expired
// in etcd, [ErrPermission] if renewing it is not permitted, or the error of the last renewal. The
// other conditions are those of package kv.
//
// [docs/lease-deadline.md]: https://github.com/etcdkit/etcdkit/blob/main/docs/lease-deadline.md
package lease
