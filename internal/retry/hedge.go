package retry

import (
	"context"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/wire"
)

// Members are the members of a cluster, as far as second attempts need them. It is safe for concurrent use.
type Members interface {
	// Several reports whether there may be more than one member. It is asked before each call.
	Several() bool
	// Other returns a connection to a member in use that is not the one at addr, which is "" where that is not known. A
	// nil connection stands for the client's own. release must be called when it is not used any more. ok is false, and
	// release nil, if there is no other member.
	Other(addr string) (conn grpc.ClientConnInterface, release func(), ok bool)
	// Evicted reports whether the member at addr has been taken out of use. If not, changed is closed when some member is.
	Evicted(addr string) (evicted bool, changed <-chan struct{})
	// Slower notes that a second attempt at another member settled a call before the first one, at addr, was answered.
	Slower(addr string)
}

// The kinds of calls whose latencies are told apart.
const (
	kindRead = iota
	kindWrite
	kinds
)

const (
	hedgeCapacity = 10 // second attempts that can be made at once

	minHedgeDelay = 250 * time.Millisecond
	maxHedgeDelay = time.Second
	hedgeFactor   = 4 // times the mean latency
	latencyWeight = 8 // the mean follows the last this many answers

	// A call is left at least two thirds of its time after its second attempt has begun.
	hedgeShare = 3
)

// Hedger decides when a call makes a second attempt while its first one is under way. All engines of a client share one.
type Hedger struct {
	members Members
	budget  *Budget
	overdue overdueHooks
	means   [kinds]atomic.Int64 // nanoseconds, 0 without an answer so far
}

// NewHedger returns a hedger with a full budget.
func NewHedger(m Members) *Hedger {
	return &Hedger{members: m, budget: NewBudget(hedgeCapacity)}
}

// answered notes that an attempt was answered after d.
func (h *Hedger) answered(kind int, d time.Duration) {
	h.budget.Call()
	mean := &h.means[kind]
	was := mean.Load()
	if was == 0 {
		mean.Store(int64(d))
		return
	}
	mean.Store(was + (int64(d)-was)/latencyWeight) // an answer that is lost to a concurrent one does not matter
}

// delay is how long an attempt may be under way before a second one begins. left is what remains of the call's time, 0 for
// no limit.
func (h *Hedger) delay(kind int, left time.Duration) time.Duration {
	d := maxHedgeDelay
	if mean := time.Duration(h.means[kind].Load()); mean > 0 {
		d = min(max(hedgeFactor*mean, minHedgeDelay), maxHedgeDelay)
	}
	if left > 0 {
		d = min(d, left/hedgeShare)
	}
	return d
}

// awaitEviction returns true when the member that first is at has been evicted, and false once first is over.
func (h *Hedger) awaitEviction(first *wire.Attempt) bool {
	for {
		evicted, changed := h.members.Evicted(first.Peer())
		if evicted {
			return true
		}
		select {
		case <-changed:
		case <-first.Done():
			return false
		}
	}
}

// ownConnection makes second attempts over the client's own connection, whose balancer picks another member for them, as
// a rule. It is for clients whose members cannot be connected to one by one.
type ownConnection struct{ cli *clientv3.Client }

// Several reports whether the client has several endpoints.
func (c ownConnection) Several() bool { return len(c.cli.Endpoints()) > 1 }

// Other returns the client's own connection if it has several endpoints.
func (c ownConnection) Other(string) (grpc.ClientConnInterface, func(), bool) {
	if !c.Several() {
		return nil, nil, false
	}
	return nil, func() {}, true
}

// Evicted returns false: nobody checks the members of such a client.
func (ownConnection) Evicted(string) (bool, <-chan struct{}) { return false, nil }

// Slower does nothing.
func (ownConnection) Slower(string) {}

// Others says what is known of the other attempts of a call when one of them is answered.
type Others int

// What is known of other attempts.
const (
	// None may have been applied: each was refused, or its answer said that it was not applied.
	None Others = iota
	// Lost means that one may have been applied, or may yet be, and its answer will not come.
	Lost
	// Out means that one is under way.
	Out
)

// second is the second attempt of a round, beside a first one that is under way.
type second[T any] struct {
	run     *run[T]
	first   *wire.Attempt
	claimed atomic.Bool // by whichever came first: the second attempt, or the end of the first
	latest  atomic.Pointer[wire.Attempt]

	// What follows is set before the second attempt claims.
	cancel    context.CancelFunc
	firstOver chan struct{}  // closed when the first attempt is over
	result    chan result[T] // receives what came of it
}

// start makes the second attempt, unless the first one is over before. If it settles the call it cancels the first. If it
// fails, it is made again as long as the first one is under way.
func (s *second[T]) start() {
	r, h := s.run, s.run.hedger
	r.Overdue(s.first.Peer())
	paid := h.budget.Take()
	if !paid && !h.awaitEviction(s.first) {
		return
	}
	addr := s.first.Peer()
	conn, release, ok := h.members.Other(addr)
	if ok {
		var ctx context.Context
		ctx, s.cancel = r.contextBeside()
		s.firstOver, s.result = make(chan struct{}), make(chan result[T], 1)
		if s.claimed.CompareAndSwap(false, true) {
			if life := r.life(); life != nil {
				defer context.AfterFunc(life, s.cancel)() // conn may outlive the client while it is in use
			}
			r.Logger.DebugContext(ctx, "etcd call is slow, second attempt at another member", append(r.logAttrs(), "slow_member", addr)...)
			s.result <- s.make(ctx, conn, release, addr)
			return
		}
		release()
		s.cancel()
	}
	if paid {
		h.budget.Return()
	}
}

// contextBeside returns a context that ends when that of the first attempt does, but not when that is cancelled for having
// lost.
func (r *run[T]) contextBeside() (context.Context, context.CancelFunc) {
	if deadline, ok := r.ctx.Deadline(); ok && r.given > 0 {
		return context.WithDeadline(r.caller, deadline)
	}
	return context.WithCancel(r.caller)
}

// make makes the attempt over conn, and others at members that are not at slow while they fail and the first one is under
// way.
func (s *second[T]) make(ctx context.Context, conn grpc.ClientConnInterface, release func(), slow string) result[T] {
	waits := s.run.Policy.Backoff()
	waits.Reset()
	lost := false
	for n := 1; ; n++ {
		x := s.send(ctx, conn, slow)
		x.lost = lost
		release()
		if x.settled || !s.again(ctx, &x, n, waits.NextBackOff()) {
			return x
		}
		lost = s.run.fate(&x) == Lost
		var ok bool
		if conn, release, ok = s.run.hedger.members.Other(slow); !ok {
			return x
		}
	}
}

// send makes one attempt over conn, beside one at the member at slow.
func (s *second[T]) send(ctx context.Context, conn grpc.ClientConnInterface, slow string) result[T] {
	r := s.run
	r.retries.Add(1)
	a := r.begin(ctx)
	a.Via(conn)
	s.latest.Store(a)
	x := r.attempt(a, true)
	if x.settled = r.settles(&x, Out); x.settled {
		select {
		case <-s.firstOver:
		default:
			r.hedger.members.Slower(slow)
		}
		r.cancel()
	}
	return x
}

// replace makes an attempt in the place of the first one, which has failed: not at the member of the second, which may be
// frozen.
func (s *second[T]) replace(ctx context.Context) result[T] {
	r := s.run
	r.retries.Add(1)
	a := r.begin(ctx)
	if second := s.latest.Load(); second != nil {
		if conn, release, ok := r.hedger.members.Other(second.Peer()); ok {
			defer release()
			a.Via(conn)
		}
	}
	return r.attempt(a, true)
}

// again waits, and reports whether another attempt is to be made instead of x, the n-th, which has failed.
func (s *second[T]) again(ctx context.Context, x *result[T], n int, wait time.Duration) bool {
	r := s.run
	if !r.replaceable(x) {
		return false
	}
	timer := time.NewTimer(min(wait, electionPause))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.firstOver:
		return false // the call decides what to do about two that have failed
	case <-ctx.Done():
		return false
	}
	return x.class == Leaderless || r.call.Guarded || n < r.Policy.MaxAttempts && r.budget.Take()
}
