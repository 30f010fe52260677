package lock

import (
	"context"
	"errors"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// Election elects one leader at a time, of all candidates in all processes that use the name, in the order in which they
// came. It is wire-compatible with client/v3/concurrency's Election. An Election is a small value with no state of its
// own. It is safe for concurrent use.
type Election struct {
	l    *Locker
	kind waiterKind
	bad  error
}

// Election returns the election of a name. It sends nothing. What is wrong with the name, for which the rules of
// [Locker.Mutex] hold, is returned by every call.
func (l *Locker) Election(name string) *Election {
	_, elections := l.dirs()
	return &Election{
		l: l, kind: waiterKind{name: name, prefix: elections + name + "/", admission: exclusive},
		bad: errors.Join(l.bad, l.checkName(name)),
	}
}

// Leader is who leads.
type Leader struct {
	Value string // what the candidate, or its last Proclaim, said
	Token int64  // its fencing token, the create revision of its key; 0: vacant
}

// Campaign waits to be elected. Each call is a candidate of its own, also within one process; the wait is bounded by ctx
// alone. It fails as [Mutex.Lock] does, and after an error nothing stays behind: a candidate whose key or session is
// gone never wins. One RPC; if it has to wait, one more when it is elected, and as for [Mutex.Lock].
//
// value is what Leader and Observe show others, such as the address of this process. The leadership ends with Release, which
// resigns.
func (e *Election) Campaign(ctx context.Context, value string) (*Leadership, error) {
	return e.campaign(ctx, value, nil)
}

// campaign is Campaign. It calls enqueued, which may be nil, when the key is in the queue.
func (e *Election) campaign(ctx context.Context, value string, enqueued func()) (*Leadership, error) {
	kind := e.kind
	kind.value, kind.enqueued = value, enqueued
	h, err := e.l.acquireOwn(ctx, kind, e.bad)
	if err != nil {
		return nil, fail("campaign", e.kind.name, err)
	}
	return &Leadership{&Held{Permit{h}}}, nil
}

// Leader returns who leads, or [ErrNoLeader]. One RPC, linearizable; one more where other elections' names lie below this
// one's.
func (e *Election) Leader(ctx context.Context) (Leader, error) {
	led, err := e.leader(ctx)
	if err != nil {
		return Leader{}, fail("leader", e.kind.name, err)
	}
	return led, nil
}

func (e *Election) leader(ctx context.Context) (Leader, error) {
	if e.bad != nil {
		return Leader{}, e.bad
	}
	ctx, done, err := e.l.begin(ctx)
	if err != nil {
		return Leader{}, err
	}
	defer done()
	ctx, stop := withDefaultTimeout(ctx)
	defer stop()
	first, _, err := e.l.readOldest(ctx, e.kind.prefix)
	if err != nil {
		return Leader{}, err
	}
	if first == nil {
		return Leader{}, ErrNoLeader
	}
	return leaderOf(first), nil
}

// readOldest reads the first of a queue, nil if it is empty, as it was at a revision: one RPC, or two if longer names lie in
// between.
func (l *Locker) readOldest(ctx context.Context, prefix string) (first *entry, rev int64, err error) {
	for _, limit := range []int64{fewAhead, 0} {
		resp, err := l.read(ctx, "read leader", oldest(prefix, limit))
		if err != nil {
			return nil, 0, err
		}
		p := parsePage(prefix, "", resp.revision(), resp.get(0))
		if len(p.entries) > 0 {
			return &p.entries[0], p.rev, nil
		}
		if rev = p.rev; p.complete {
			break
		}
	}
	return nil, rev, nil
}

// leaderOf is what the first of a queue says, the zero Leader if there is none.
func leaderOf(first *entry) Leader {
	if first == nil {
		return Leader{}
	}
	return Leader{Value: first.value, Token: first.create}
}

// Leadership is the hold of an elected leader. Release resigns. It has the methods of [Held], with the Token of the election.
type Leadership struct{ *Held }

// Proclaim changes the value that others see. The token and the guard stay as they are. One RPC. If etcd does not
// answer until ctx ends, or for 10 s if ctx has no deadline, the error matches [ErrUnknownOutcome]. It fails with
// [ErrLost] where the leadership is lost, also meanwhile. Calls take effect one after the other.
func (l *Leadership) Proclaim(ctx context.Context, value string) error {
	h, ok := l.hold.(*hold)
	if !ok {
		return fail("proclaim", l.hold.name(), ErrLost)
	}
	if err := h.proclaim(ctx, value); err != nil {
		return doubtful("proclaim", h.name(), err)
	}
	return nil
}

// proclaims returns the channel that is full while somebody proclaims.
func (h *hold) proclaims() chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.proclaiming == nil {
		h.proclaiming = make(chan struct{}, 1)
	}
	return h.proclaiming
}

func (h *hold) proclaim(ctx context.Context, value string) error {
	ctx, done, err := h.w.q.l.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	turn := h.proclaims()
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return retry.ContextError(ctx)
	}
	if err := h.err(); err != nil {
		return err
	}
	if _, err := h.w.rewrite(ctx, value); err != nil {
		if over := h.err(); over != nil {
			return over
		}
		return err
	}
	return nil
}
