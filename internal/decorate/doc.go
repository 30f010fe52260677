// Package decorate replaces the exported fields of a client/v3 client by decorators that log in
// again and repeat requests that are safe to repeat. Code written for client/v3, such as its
// package concurrency, then has these properties as well.
//
// # What changes
//
// Reads, and transactions that only read, are repeated after temporary errors. A write is repeated
// only if it was provably not applied, for example because its token was rejected. Leases get an ID
// that is chosen here, so that a repeated grant does not create a second lease; revoking a lease
// that an earlier attempt has revoked succeeds. A second attempt of slow reads, grants and revokes
// is made at another member. If tokens can be renewed, a watch that is rejected because the token
// of its stream is too old is reopened on another stream.
//
// # What does not change
//
// A call without a deadline waits as long as in client/v3; in this case the engine's timeouts end
// the repeats, not the attempts. Errors are those of the last attempt, not wrapped; if a context
// has ended, its own error is returned. KeepAlive, GetStream and the panics of a misused
// transaction are those of client/v3.
//
// # Watches
//
// Every watch has one more goroutine than in client/v3, which ends with its context. A reopened
// watch continues after the last revision that was delivered: no event is repeated and none is
// missed. If the token is rejected again and again, the error is delivered after as many more
// streams as the policy has attempts. The watches of a stream are created and ended one at a time,
// because client/v3 hangs if two are rejected at once.
//
// # Undecorated fields
//
// The decorators implement [wire.Based] and [wire.BasedLease], and the Watcher has a method
// BaseWatcher. The packages of this module use them to get the undecorated fields, so that no
// request is retried twice.
package decorate
