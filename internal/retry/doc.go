// Package retry decides what may be sent again, and when.
//
// # Classification
//
// Every failure of an attempt falls into one class ([Classify]): it was refused before anything was proposed, or never
// put on the wire (not applied: it may be sent again); it can only come again in the same way (not applied: no use
// sending it again); or nobody can tell (ambiguous). Reads are sent again after all but the hopeless ones. A write is
// sent again when it was provably not applied, or when its caller says that a second application is impossible
// ([Call].Guarded); such a write is repeated until the answer is definite. Everything else that is ambiguous is reported
// with [errs.UnknownOutcome], and never sent a second time.
//
// # Second attempts
//
// An attempt has all the time that the call has left. It is never given up because it is slow: its answer may be on the
// way, and on a slow link every attempt would be given up. Instead [Do] and [Settle] make a second attempt beside a slow
// one, at another member ([Members]), where a second application is impossible: for reads and for guarded writes. Whichever
// answer settles the call first wins, and only then is the other attempt cancelled. Cancelling fences nothing: the loser
// may still be applied, unless what the write compares prevents it.
//
//	call                        answers that settle it while the other attempt is under way
//	read                        any; also an error that every member gives, such as compacted or no permission
//	guarded write               "applied"; other answers as the caller's function for Settle says. Errors never do
//	lease grant (own ID),       any; a lease that exists, or is gone, was granted or revoked by the other attempt
//	revoke
//	other writes                there is one attempt
//
// An attempt that fails while the other is under way is made again, since the other may be at a member that is frozen: the
// new leader of a cluster whose leader froze refuses the reads that its members have waited with, and writes that were on
// their way to the old one time out.
//
// The second attempt begins after four times the mean latency of reads or writes, at least 250 ms and at most 1 s, or after
// a third of the time that remains if that is less. A budget of 10, to which each answer adds a tenth, bounds what second
// attempts add to the load of members that are all slow. When a member is evicted, calls under way there make their second
// attempt at once, outside the budget.
//
// # Pace
//
// Waits between attempts are exponential with full jitter. A call makes at most [Policy].MaxAttempts attempts, but the
// refusals of a member that has no leader, or that has too many requests, are waited out until the deadline: they cost
// the cluster nothing and end by themselves. A budget that all calls of a client share limits repeats to a tenth of its
// calls, with some to start from, so that a client does not multiply the load of a cluster in trouble. Three kinds of
// repeats cost nothing: one for each call whose connection was lost, waits for a leader, and those that make the outcome
// of a guarded write definite. A [Call].Persistent is repeated until its deadline, outside the budget.
package retry
