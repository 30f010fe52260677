// Package raw gives the exported fields of a client/v3 client decorators that log in again and send again what is safe
// to send again, so that code written for client/v3, its package concurrency for one, has that as well.
//
//	func Install(cli *clientv3.Client, engine *retry.Engine, login bool)
//
// # What changes
//
// Reads, and transactions that only read, are sent again when they fail in a way that may pass. A write is sent again
// only when it was provably not applied, a refused token included. A lease gets an ID that is chosen here, so that
// asking for it twice makes one; revoking one that an earlier attempt has revoked is a success. Reads, grants and revokes
// that are slow are made a second time, at another member. A watch that is refused
// because the token of its stream is too old is opened again on another stream (only where login is true).
//
// # What does not
//
// Everything else is as client/v3 has it. A call without a deadline waits as long as client/v3 would; repeats, not
// attempts, end after the engine's time-outs then. Errors are those of the last attempt, not wrapped; a context that has
// ended gives its own error. KeepAlive, GetStream and the misuse of a transaction (it panics) pass through.
//
// # Watches
//
// Every watch has one more goroutine than it would have, which ends with its context. One that is refused on the way goes
// on after the last revision that was handed on: nothing comes twice and nothing is missed. A refusal that does not end is
// handed on after as many more streams as the policy has attempts. Watches are created and ended one at a time on each
// stream, because two refusals at once make client/v3 hang.
//
// # Below the decorators
//
// They implement [wire.Based] and [wire.BasedLease], and the Watcher has a method BaseWatcher, by which the packages of
// etcdkit reach what is below: nothing is retried twice.
package raw
