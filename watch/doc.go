// Package watch streams every change of the keys below a prefix, exactly once and in order, or
// keeps a consumer's copy of the keys up to date.
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
//	events   every change, once, in revision order. If history was lost to compaction, the watch
//	         ends with a *CompactedError
//	state    the current state (Snapshot batches), then every change (Live). If history is lost,
//	         or reading it costs more than reading the keys, the watch lists again and delivers
//	         the difference (Resync batches), deletions included. The final state is always
//	         right; several changes of a key in between may be delivered as one
//
// # Guarantees
//
//   - One transaction is one batch, whatever happens to the connection.
//   - Revisions increase from batch to batch and from event to event of a key, unless history is
//     rewritten. All batches of one snapshot or resync have the same revision.
//   - After a batch with More == false, everything up to its Revision has been delivered. Store
//     that revision: [WithAfter] starts strictly after it. [WithProgress] keeps it from being
//     compacted while only other keys change.
//   - The loss of a connection, member or leader, an expired token and a stream without responses
//     are not errors: the watch continues on another stream, without a gap or a repetition.
//     Meanwhile, [Subscription.Status] and [Watcher.ServerWatches] return why it is stale. A
//     warning is logged if two attempts in a row fail, and another when all watches have continued.
//   - A watch ends only with the error of its context, [ErrClosed], [ErrPermission], a
//     [*CompactedError] or [ErrHistoryRewritten]. If its arguments are invalid, it does not start
//     and the error matches [ErrInvalid].
//   - If history is rewritten (a wiped cluster, a restored backup), revisions start over. An events
//     watch ends with [ErrHistoryRewritten]; a state watch lists again and delivers one Resync.
//
// # What is not guaranteed
//
//   - Watches are not ordered with reads: a read may show a change before the watch delivers it.
//   - A wiped cluster is not recognized if it has the same cluster ID, its raft term is not lower,
//     and its revision has already passed the one that the watch has reached.
//   - If a user loses read permission, open watches, and watches of the same client that join them,
//     continue until the server-side watch is opened again.
//   - A watch that meets a value larger than the client's receive limit makes no progress and keeps
//     retrying. Other watches are not affected.
//   - A watch without WithAfter may deliver a change that was made just before it started.
//   - On servers that etcdkit.Open refuses as too old, a watch may miss events without an error.
//     [New] does not check.
//
// # Sharing
//
// Watches of one [Watcher] with the same selector share one server-side watch, whether they deliver
// events or state: to etcd, a thousand subscribers are one watch. They share events, which must not
// be changed. All live watches share one gRPC stream; watches that catch up use up to 16 others.
//
// # Slow consumers
//
// A slow consumer does not delay others. One that lags more than [WithBuffer] events or 16 MiB
// behind gets the missed changes from etcd's history. An events watch ends if they have been
// compacted; a state watch reads them or lists again, which yields a Resync. With [WithCoalescing],
// the watch gets the latest change of each key instead. All replays of a Watcher share 64 MiB of
// memory.
//
// # Cost
//
//	Watch, no snapshot  0 RPCs if the range is watched already; else one message on a stream
//	WithSnapshot        the same and a streamed list; then about 50 bytes a key besides the key
//	WithAfter           a stream during the replay; one small read if the revision is later than
//	                    what is known. With WithSnapshot: a streamed list of keys at the revision
//	idle                one message every 30 s ±20 % for all watches of the Watcher
//	reconnect           a stream, and one small read if the revision looks wrong
//
// The protocol is in [docs/watch-protocol.md].
//
// [docs/watch-protocol.md]: https://github.com/etcdkit/etcdkit/blob/main/docs/watch-protocol.md
package watch
