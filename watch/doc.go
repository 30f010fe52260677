// Package watch streams every change of the keys below a prefix, exactly once and in order, or
// keeps a consumer's copy of them right.
//
//	w := client.Watcher()
//
//	for b, err := range w.Watch(ctx, watch.Prefix("users/"), watch.WithSnapshot()) {
//		if err != nil {
//			return err // ctx has ended, or one of the few errors below
//		}
//		for _, e := range b.Events {
//			apply(e.Type, e.Key, e.Value)
//		}
//	}
//
// [Watcher.Watch] is a sequence, [Watcher.Subscribe] calls a function, and [Watcher.Consume] keeps
// a checkpoint so that a restarted process continues where the last one stopped.
//
// # Two modes
//
// A watch delivers events or, with [WithSnapshot], state.
//
//	events   every change, once, in revision order; the changes of a transaction are one batch.
//	         If history was lost to compaction, the watch ends with a *CompactedError
//	state    the current state (Snapshot batches), then every change (Live). If history is lost,
//	         or reading it costs more than reading the keys, the watch lists again and delivers
//	         the difference (Resync batches), deletions included. The final state is always
//	         right; changes in between may become one
//
// # Guarantees
//
//   - Revisions rise from batch to batch (batches of one snapshot or resync share theirs) and per
//     key, unless history is rewritten.
//   - One transaction is one batch, whatever happens to the connection.
//   - After a batch with More == false, everything up to its Revision has been delivered. Store
//     that revision: [WithAfter] starts strictly after it. [WithProgress] advances it while nothing
//     changes below the prefix, so that a stored revision is not compacted on a quiet prefix in a
//     busy cluster.
//   - A lost connection, member or leader, an expired token and a silent stream are not errors: the
//     watch continues elsewhere, without a gap or a repetition.
//   - A watch ends only with its context, with [ErrClosed], [ErrPermission], a [*CompactedError] or
//     [ErrHistoryRewritten]. One with invalid arguments does not start and matches [ErrInvalid].
//   - If history is rewritten (a wiped cluster, a restored backup), an events watch ends with
//     [ErrHistoryRewritten]; a state watch lists again, delivers one Resync and continues.
//     Revisions then start over.
//   - Memory is bounded: see Slow consumers.
//
// # What is not guaranteed
//
//   - Watches and reads are not linearizable with each other: a read may show a change before the
//     watch delivers it.
//   - A wiped cluster cannot be recognized if its new history has passed the revision reached, with
//     the same cluster ID and a raft term that is not lower.
//   - A user who loses the permission to read keeps open watches, and those of the same client that
//     join them, until they are opened again.
//   - A value larger than the client's receive limit holds up its own watch, which keeps trying.
//   - A watch that joins an open server-side watch starts where that stands: it may deliver a
//     change that was made just before. WithAfter starts at an exact revision.
//   - On servers before etcd 3.5.13, or before 3.4.31 of 3.4, which report progress ahead of events
//     (etcd issue 15220), none of the guarantees holds: a watch may omit events and not notice.
//     etcdkit.Open refuses such members; OpenLazy, Wrap and WithUnsupportedServers log a warning;
//     New does not check.
//
// # Sharing
//
// Watches of one [Watcher] with the same selector share one server-side watch, whether they deliver
// events or state: a thousand subscribers cost etcd one. They also share the events of a batch and
// their values, which must not be changed. All live watches share one gRPC stream; watches that
// catch up use others, up to 16, and so do replays. With client/v3's own login, a stream costs a
// login. A Watcher field of the client that is not client/v3's own is used as it is and not closed;
// each server-side watch over it is asked for progress by itself.
//
// # Slow consumers
//
// Each watch may lag [WithBuffer] events (4096 by default) or 16 MiB behind, whichever comes first;
// at least one batch always fits. A consumer that blocks for longer holds up nobody. It then reads
// what it has missed from etcd's history, or lists: an events watch gets every change unless they
// are compacted meanwhile, a state watch may get a Resync. With [WithCoalescing] it gets one batch
// with the latest change of each key, and Folded counts those left out. All replays of a Watcher
// share 64 MiB of memory.
//
// # Outages
//
// If two attempts in a row fail, a warning says that watches are interrupted, and another one says
// when all continue: once for all watches of a Watcher, and at most once a minute. Status and
// ServerWatches tell why a watch is stale, with the error of the last attempt to connect if there
// is no connection.
//
// # Lifetime
//
// New sends nothing. Close ends all watches and subscriptions, waits for handlers and goroutines,
// and is idempotent. A [Subscription] is closed by its owner, by an error of its handler, or with
// the watcher. Handlers of one subscription run one at a time. A panic in one ends that
// subscription only, and its Err returns it.
//
// # Cost
//
//	Watch, no snapshot    0 RPCs if the range is watched already; else one message on a stream
//	WithSnapshot          the same and a streamed list; then about 50 bytes a key besides the key
//	WithAfter             a stream during the replay; one small read if the revision is later than
//	                      what is known. With WithSnapshot: a streamed list of keys at the revision
//	idle                  one message every 30 s ±20 % for all watches of the Watcher
//	Refresh               one message for all concurrent callers
//	reconnect             a stream, and one small read if the revision looks wrong
//
// The protocol is in docs/watch-protocol.md.
package watch
