// Package retry decides which requests are sent again, and when.
//
// # Classification
//
// [Classify] assigns each failure of an attempt to a class. Either the request was not applied, and
// repeating it may or may not help; or it is ambiguous whether it was applied. A read is repeated
// after every failure except a permanent one. A write is repeated if it provably was not applied,
// or if a second application is impossible ([Call].AtMostOnce); the latter is repeated until its
// outcome is known. Every other ambiguous failure is reported with [errs.UnknownOutcome], and the
// write is not repeated.
//
// # Second attempts
//
// An attempt may take as long as the call. It is never canceled because it is slow: the response
// may be on its way, and on a slow link every attempt would be canceled. Instead, [Do] and
// [DoUntil] make a second attempt at another member ([Members]) in parallel with a slow first one,
// if the call cannot be applied twice, as is the case for reads and at-most-once writes. The first
// response that settles the call wins, and only then is the other attempt canceled. Canceling does
// not prevent the other attempt from being applied; the comparisons of the write do.
//
//	call                     responses that settle it while the other attempt is in flight
//	read                     every response, and errors that every member returns, such as
//	                         compacted or permission denied
//	at-most-once write       "applied", and other responses that the evaluate function of DoUntil
//	                         accepts; no errors
//	lease grant (own ID),    every response. A lease that exists already, or no longer, was
//	revoke                   granted or revoked by the other attempt
//	other writes             there is only one attempt
//
// If an attempt fails while the other one is in flight, it is repeated, because the other one may
// be at a frozen member. For example, the new leader of a cluster whose leader froze refuses the
// reads that were waiting at the members, and times out writes that were forwarded to the old
// leader.
//
// The second attempt starts after four times the mean latency of reads or writes, at least 250 ms
// and at most 1 s, or after a third of the remaining time if that is less. A budget limits second
// attempts to ten at once and a tenth of all responses, so that they add little load when all
// members are slow. If a member is evicted, the calls in flight at it start their second attempts
// immediately, outside the budget.
//
// # Backoff and budget
//
// Delays between attempts are exponential with full jitter. A call makes at most
// [Policy].MaxAttempts attempts. Refusals by a member that has no leader or is overloaded do not
// count and are retried until the deadline: they cost the cluster nothing and end by themselves. A
// budget that all calls of a client share limits retries to a tenth of the calls, plus an initial
// allowance, so that a client does not multiply the load of a cluster in trouble. Three kinds of
// retries are outside the budget: one for each call whose connection was lost, those that wait for
// a leader, and those that determine the outcome of an at-most-once write. A [Call].Persistent is
// retried until its deadline, outside the budget.
package retry
