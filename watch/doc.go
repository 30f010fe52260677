// Package watch lists keys and then follows their changes, and does not lose any.
//
//	w := watch.New(cli, watch.WithNamespace("myapp"))
//	defer w.Close()
//
//	for b, err := range w.Watch(ctx, watch.Prefix("users/"), watch.WithSnapshot()) {
//		if err != nil {
//			return err // ctx has ended, or one of the few errors below
//		}
//		for _, e := range b.Events { ... }
//	}
//
// [Watcher.Watch] is a sequence, [Watcher.Subscribe] calls a function, [Watcher.Consume] keeps a checkpoint so that a
// restarted process goes on where the last one stopped. All three are the same engine.
//
// # Two modes
//
// A watch delivers events, unless it has [WithSnapshot], which makes it deliver state.
//
//	events   every change, once, in revision order, the changes of one transaction in one batch. Where history was
//	         lost to compaction the watch ends with a *CompactedError: nothing is invented.
//	state    what is there now (Snapshot batches), then every change (Live). The watch remembers which keys it has told
//	         of. Where history is lost, or reading it again costs more than reading the keys, it lists anew and
//	         delivers the difference (Resync batches), deletes included: the final state is always right, changes in
//	         between may be folded into one.
//
// # Guarantees
//
//   - Revisions rise from batch to batch (batches of one snapshot or resync share theirs), per key without exception,
//     unless history is rewritten.
//   - One transaction is one batch, whatever happens to the connection.
//   - After a batch with More == false, everything up to its Revision has been delivered. That revision is what to store,
//     and [WithAfter] starts strictly after it. [WithProgress] carries it forward while nothing happens below the
//     prefix, so that a stored revision is not compacted away on a quiet prefix in a busy cluster.
//   - A lost connection, a lost member, a lost leader, an expired token and a stream that has gone silent are not
//     errors: the watch goes on elsewhere, without a gap and without a repetition.
//   - A watch ends only with its context, with [ErrClosed], [ErrPermission], a [*CompactedError] or
//     [ErrHistoryRewritten]; one with invalid arguments does not begin, and matches [ErrInvalid].
//   - Memory is bounded: see "Slow consumers".
//
// What is not guaranteed: watches and reads are not linearizable with each other (a read may see a change before the watch delivers
// it); a wiped cluster whose new history has already passed the revision reached, with the same cluster ID and a raft term
// that is no lower, cannot be told from the old one; a user who loses the permission to read keeps what watches are
// open, and those of the same client that join them, until they are opened anew; a value that is larger than the
// client's receive limit holds up its own watch, which keeps trying.
//
// # Servers
//
// etcd 3.5.13 and later, 3.4.31 and later of 3.4. Older servers report progress ahead of events that they have yet to send
// (etcd issue 15220). There, none of the above is certain: a watch that is opened again and a watch with WithAfter may leave
// events out, report that everything up to a revision was delivered, and never know. etcdkit.Open refuses such members;
// etcdkit.OpenLazy, etcdkit.Wrap and etcdkit.WithUnsupportedServers log a warning instead. New, over a client of client/v3,
// does not check.
//
// # How a watch starts
//
// etcd serves a watch that starts at or below the current revision from a loop that runs every 100 ms. So the server's
// watch is always opened at "now": etcd confirms it with its revision W. A state watch then lists, linearizably,
// at R >= W and drops the events up to R, which come while it lists; an events watch goes on from W + 1. One that joins a
// server-side watch that is open begins where that stands: a change that was made just before, and is still on its way,
// is delivered too. WithAfter draws the line exactly.
//
// # How a watch goes on
//
// Next is the first revision that has not been delivered. It moves to the revision of the last event plus one, or to that of a
// progress report plus one, whichever is later; never to the revision in the header of an event, because etcd stamps
// catch-up batches with the current revision while they hold a thousand old ones. And never to zero: a watch that is
// opened again "from now" forgets what happened in between.
//
//	          created(W), first time: next = W+1
//	[opening] ------------------------------------------------------> [live]
//	   ^  ^    W = next-1: nothing was missed                           |
//	   |  |    W > next-1: read the history from next ... [replaying] --+--> events, progress: next moves
//	   |  |                or, where all consumers keep state and that  |
//	   |  |                is cheaper, let them list (a gap up to W)    | closed, cancelled, refused, no leader,
//	   |  |    W < next-1, or a lower raft term: a linearizable read    | no answer for 4 s
//	   |  |    tells a lagging member from another history              v
//	   |  +---------------------- wait 50 ms ... 5 s, jittered ------ [stale]
//	   +-- compacted: a gap up to W; state lists, events end
//
// Opening is bounded (a server that does not answer is given up), asks for a leader, and avoids the member that has just
// failed. A stream is asked for a progress report when somebody needs to know that it answers ([Subscription.Refresh],
// [Subscription.WaitRevision], a call or a renewal of the client that is overdue), and every 30 s ±20 %. If there is no
// answer within 4 s, not even to the creation of a watch, it is dead, whatever TCP says. docs/watch-protocol.md has the details.
//
// A response arrives whole, however many events it has. If it is refused for its size (the client's MaxCallRecvMsgSize), the
// watch asks etcd to split the next one into fragments, each of which is a sign of life. etcd needs time that is quadratic in
// the number of small events to do that: minutes for 100,000. If two replays in a row deliver nothing, watches that keep
// state list instead, and the others ask for fragments over a Watcher of the user's, which hides a refusal.
//
// The engine opens its gRPC streams itself and decides alone when and where to open the next: client/v3's own watcher reopens
// by itself, without a pause when the server answers Internal, and can hang when a watch is refused while another ends.
//
// A history that runs backwards (a wiped cluster, a restored backup) shows in a revision, a raft term or a cluster ID
// that a linearizable read confirms to be lower or other. Events watches end with [ErrHistoryRewritten]; state watches list,
// deliver everything as one Resync, and go on. Revisions start over then.
//
// # Sharing
//
// Watches of one [Watcher] on the same selector share one server-side watch, whether they take events or state: a
// thousand subscribers cost etcd one. The events of a batch and their values are shared as well: they are
// read-only. A watch that starts late, or starts in the past, reads what it needs by itself and then joins. All server-side
// watches of a Watcher share one gRPC stream while they are live. One that has missed something reads it over another
// stream, of which there are up to 16, and comes back without a gap; replays have further ones, of which 16 are kept for as
// long as any replay lasts. With client/v3's own login, a stream costs a login. What kills the shared stream (an event larger
// than the receive limit) has all watches opened anew, and the one that is to blame is found on the streams for missed events.
//
// A Watcher field of the client that is not client/v3's own is used as it is, and not closed. Since its streams are its own
// affair, each server-side watch is asked for progress by itself.
//
// # Outages
//
// If two attempts in a row fail, one warning says that watches are interrupted, and another one, when all go on, that they do:
// for all watches of a Watcher at once, and at most once a minute. Status and ServerWatches say why a watch is stale; if the
// client has no connection, with the error of its last attempt to connect.
//
// # Slow consumers
//
// Each watch may lag [WithBuffer] events (4096 by default) or 16 MiB behind the shared server-side watch, whichever comes first; at least one batch
// always fits. A consumer that blocks for longer loses its place, and holds up nobody. When it comes back it reads what
// it has missed from etcd's history, or lists, and joins again: an events watch gets every change unless
// they are compacted meanwhile, a state watch may get a Resync. With [WithCoalescing] a slow consumer gets what has
// piled up as one batch with the latest change of each key, and Folded says how many were left out.
//
// One response of etcd's history may hold a thousand revisions. All replays of a Watcher share 64 MiB for the responses that
// they hold: a replay waits until there is room, and requests a response that is larger than 32 MiB in fragments. One that is
// larger than the replay's share (12 MiB if no other goes on) is requested twice, and takes 100 ms longer. A consumer
// that is busy with one batch gives its room to replays that wait, and reads the rest again. Responses over a Watcher of the
// user's cannot be measured before they arrive: there, replays are limited in number only.
//
// # Cost
//
//	Watch, no snapshot    0 RPCs where the range is watched already; else one message on a stream
//	WithSnapshot          the same and a streamed list; afterwards about 50 bytes for each key, besides the key itself
//	WithAfter             a stream for as long as the replay takes; one small read where the revision is later
//	                      than what is known already. With WithSnapshot: a streamed list of keys as of the revision
//	idle                  one message every 30 s ±20 % for all watches of the Watcher
//	Refresh               one message, for all who call it at the same time
//	reconnect             a stream, and one small read where the revision looks wrong
//
// # Lifetime
//
// New sends nothing. Close ends all watches and subscriptions, waits for handlers and goroutines, and is idempotent. A
// [Subscription] is closed by its owner, by its handler's error, or with the watcher. Handlers of one subscription run
// one at a time; a panic in one ends that subscription alone and is what its Err returns.
package watch
