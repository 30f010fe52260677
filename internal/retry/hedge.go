package retry

import (
	"context"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/wire"
)

// Members gives second attempts access to the members of the cluster. It must be safe for
// concurrent use.
type Members interface {
	// HasSeveral reports whether there may be more than one member. It is called for each call.
	HasSeveral() bool
	// Other returns a connection to a member that is not evicted and is not the one at addr, which
	// is "" if unknown. A nil connection means the client's own. release must be called after use.
	// If there is no other member, ok is false and release is nil.
	Other(addr string) (conn grpc.ClientConnInterface, release func(), ok bool)
	// Evicted reports whether the member at addr is evicted. If it is not, changed is closed when
	// any member is evicted.
	Evicted(addr string) (evicted bool, changed <-chan struct{})
	// ReportSlow records that a second attempt at another member settled a call before the first
	// one, at addr, had returned.
	ReportSlow(addr string)
}

// The kinds of calls with separate latencies.
const (
	kindRead = iota
	kindWrite
	kindCount
)

const (
	hedgeBudgetCapacity = 10 // second attempts that can start at once

	minHedgeDelay     = 250 * time.Millisecond
	maxHedgeDelay     = time.Second
	latencyMultiplier = 4 // a hedge starts after this many times the mean latency
	latencyWindow     = 8 // the mean is a moving average of about this many responses

	// hedgeTimeDivisor leaves a second attempt at least two thirds of the call's time.
	hedgeTimeDivisor = 3
)

// Hedger decides when a call makes a second attempt while its first one is in flight. All engines
// of a client share one.
type Hedger struct {
	members       Members
	budget        *Budget
	overdue       overdueHooks
	meanLatencies [kindCount]atomic.Int64 // nanoseconds, 0 before the first response
}

// NewHedger returns a hedger with a full budget.
func NewHedger(m Members) *Hedger {
	return &Hedger{members: m, budget: NewBudget(hedgeBudgetCapacity)}
}

// observe records the latency of an attempt that received a response.
func (h *Hedger) observe(kind int, d time.Duration) {
	h.budget.Deposit()
	mean := &h.meanLatencies[kind]
	old := mean.Load()
	if old == 0 {
		mean.Store(int64(d))
		return
	}
	mean.Store(old + (int64(d)-old)/latencyWindow) // a concurrent update may be lost
}

// delay returns how long an attempt may take before a second one starts. timeLeft is the time until
// the deadline of the call, or 0 if it has none.
func (h *Hedger) delay(kind int, timeLeft time.Duration) time.Duration {
	d := maxHedgeDelay
	if mean := time.Duration(h.meanLatencies[kind].Load()); mean > 0 {
		d = min(max(latencyMultiplier*mean, minHedgeDelay), maxHedgeDelay)
	}
	if timeLeft > 0 {
		d = min(d, timeLeft/hedgeTimeDivisor)
	}
	return d
}

// admit waits until a second attempt may start, because the budget allows it or the member of first
// is evicted. ok is false if first has ended before. withdrawn reports whether the budget was
// charged.
func (h *Hedger) admit(first *wire.Attempt) (withdrawn, ok bool) {
	if h.budget.Withdraw() {
		return true, true
	}
	refilled := time.NewTicker(maxHedgeDelay)
	defer refilled.Stop()
	for {
		evicted, changed := h.members.Evicted(first.Peer())
		if evicted {
			return false, true
		}
		select {
		case <-changed:
		case <-refilled.C:
			if h.budget.Withdraw() {
				return true, true
			}
		case <-first.Done():
			return false, false
		}
	}
}

// clientMembers makes second attempts over the client's own connection, whose balancer usually
// picks another member. It serves clients that have no connections to single members.
type clientMembers struct{ cli *clientv3.Client }

// HasSeveral reports whether the client has several endpoints.
func (c clientMembers) HasSeveral() bool { return len(c.cli.Endpoints()) > 1 }

// Other returns the client's own connection if it has several endpoints.
func (c clientMembers) Other(string) (grpc.ClientConnInterface, func(), bool) {
	if !c.HasSeveral() {
		return nil, nil, false
	}
	return nil, func() {}, true
}

// Evicted returns false, because the members of such a client are not checked.
func (clientMembers) Evicted(string) (bool, <-chan struct{}) { return false, nil }

// ReportSlow does nothing.
func (clientMembers) ReportSlow(string) {}

// Others is the state of the other attempts of a call when one of them has returned.
type Others int

// The states of other attempts.
const (
	// OthersNotApplied means that no other attempt was applied or will be: each was refused, or its
	// response said that it was not applied.
	OthersNotApplied Others = iota
	// OthersUnknown means that another attempt may have been applied, or may still be, and that no
	// response to it will arrive.
	OthersUnknown
	// OthersInFlight means that another attempt is in flight.
	OthersInFlight
)

// hedge is the second attempt of a round, in parallel with a first one.
type hedge[T any] struct {
	run     *run[T]
	first   *wire.Attempt
	claimed atomic.Bool // set by the start of the hedge or the end of the first attempt, if earlier
	latest  atomic.Pointer[wire.Attempt]

	// The fields below are set before the start of the hedge sets claimed.
	cancel    context.CancelFunc
	firstDone chan struct{} // closed when the first attempt has returned
	result    chan result[T]
}

// start makes the second attempt, unless the first one has returned. If the second attempt settles
// the call, it cancels the first one. If it fails, it is repeated while the first one is in flight.
func (h *hedge[T]) start() {
	r, hedger := h.run, h.run.hedger
	r.ReportOverdue(h.first.Peer())
	withdrawn, admitted := hedger.admit(h.first)
	if !admitted {
		return
	}
	addr := h.first.Peer()
	conn, release, ok := hedger.members.Other(addr)
	if ok {
		var ctx context.Context
		ctx, h.cancel = r.hedgeContext()
		h.firstDone, h.result = make(chan struct{}), make(chan result[T], 1)
		if h.claimed.CompareAndSwap(false, true) {
			if clientCtx := r.clientCtx(); clientCtx != nil {
				// While it is in use, conn may outlive the client.
				defer context.AfterFunc(clientCtx, h.cancel)()
			}
			r.Logger.DebugContext(ctx, "etcd call is slow, second attempt at another member", append(r.logAttrs(), "slow_member", addr)...)
			h.result <- h.attempt(ctx, conn, release, addr)
			return
		}
		release()
		h.cancel()
	}
	if withdrawn {
		hedger.budget.Refund()
	}
}

// hedgeContext returns the context of a second attempt. It ends with the caller's context and at
// the deadline of the call. It is not derived from r.ctx, which the second attempt cancels to end
// the first one.
func (r *run[T]) hedgeContext() (context.Context, context.CancelFunc) {
	if deadline, ok := r.ctx.Deadline(); ok && r.defaultTimeout > 0 {
		return context.WithDeadline(r.callerCtx, deadline)
	}
	return context.WithCancel(r.callerCtx)
}

// attempt makes the attempt over conn. While it fails and the first attempt is in flight, it
// repeats it at members other than the one at slowAddr.
func (h *hedge[T]) attempt(ctx context.Context, conn grpc.ClientConnInterface, release func(), slowAddr string) result[T] {
	backoff := h.run.Policy.Backoff()
	backoff.Reset()
	ambiguous := false
	for n := 1; ; n++ {
		x := h.sendOnce(ctx, conn, slowAddr)
		x.replacesAmbiguous = ambiguous
		release()
		if x.final || !h.waitToRepeat(ctx, &x, n, backoff.NextBackOff()) {
			return x
		}
		ambiguous = h.run.outcomeOf(&x) == OthersUnknown
		var ok bool
		if conn, release, ok = h.run.hedger.members.Other(slowAddr); !ok {
			return x
		}
	}
}

// sendOnce makes one attempt over conn, in parallel with one at the member at slowAddr.
func (h *hedge[T]) sendOnce(ctx context.Context, conn grpc.ClientConnInterface, slowAddr string) result[T] {
	r := h.run
	r.retries.Add(1)
	a := r.newAttempt(ctx)
	a.Via(conn)
	h.latest.Store(a)
	x := r.sendAttempt(a, true)
	if x.final = r.isFinal(&x, OthersInFlight); x.final {
		select {
		case <-h.firstDone:
		default:
			r.hedger.members.ReportSlow(slowAddr)
		}
		r.cancel()
	}
	return x
}

// replaceFirst makes an attempt that replaces the first one, which has failed. It avoids the member
// of the second attempt, which may be frozen.
func (h *hedge[T]) replaceFirst(ctx context.Context) result[T] {
	r := h.run
	r.retries.Add(1)
	a := r.newAttempt(ctx)
	if latest := h.latest.Load(); latest != nil {
		if conn, release, ok := r.hedger.members.Other(latest.Peer()); ok {
			defer release()
			a.Via(conn)
		}
	}
	return r.sendAttempt(a, true)
}

// waitToRepeat waits, and reports whether another attempt should replace the n-th one, which has
// failed with x.
func (h *hedge[T]) waitToRepeat(ctx context.Context, x *result[T], n int, delay time.Duration) bool {
	r := h.run
	if !r.isReplaceable(x) {
		return false
	}
	timer := time.NewTimer(min(delay, maxElectionDelay))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-h.firstDone:
		return false // both attempts have failed: the call decides about retries
	case <-ctx.Done():
		return false
	}
	return x.class == NoLeader || r.call.AtMostOnce || n < r.Policy.MaxAttempts && r.budget.Withdraw()
}
