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
// # Pace
//
// Waits between attempts are exponential with full jitter. A call makes [Policy].MaxAttempts attempts at the most, but
// refusals of a member that has no leader, or too many requests, are waited out until the deadline: they cost the cluster
// nothing, and end by themselves. A budget shared by all calls of a client lets retries be a tenth of its calls, with some to start
// from, so that a client does not multiply the load of a cluster that is in trouble. The repeats that make a guarded
// write definite are outside the budget: correctness is not for sale.
package retry
