package lock

import (
	"context"
	"errors"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// Election elects one leader at a time, of all candidates in all processes that use the name, in the order in which they
// came. It is wire-compatible with client/v3/concurrency's Election. An Election is a small value with no state of its
// own. It is safe for concurrent use.
type Election struct {
	l    *Locker
	spec spec
	bad  error
}

// Election returns the election of a name. It sends nothing. What is wrong with the name, for which the rules of
// [Locker.Mutex] hold, is returned by every call.
func (l *Locker) Election(name string) *Election {
	_, elections := l.dirs()
	return &Election{
		l: l, spec: spec{name: name, prefix: elections + name + "/", rule: first},
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
// gone never wins. One RPC, and one more for the first candidate of the process that has to wait.
//
// value is what Leader and Observe show others, such as the address of this process. The leadership ends with Release, which
// resigns.
func (e *Election) Campaign(ctx context.Context, value string) (*Leadership, error) {
	sp := e.spec
	sp.value = value
	g, err := e.l.acquireOwn(ctx, sp, e.bad)
	if err != nil {
		return nil, fail("campaign", e.spec.name, err)
	}
	return &Leadership{&Held{Permit{g}}}, nil
}

// Leader returns who leads, or [ErrNoLeader]. One RPC, linearizable; one more where other elections' names lie below this
// one's.
func (e *Election) Leader(ctx context.Context) (Leader, error) {
	led, err := e.leader(ctx)
	if err != nil {
		return Leader{}, fail("leader", e.spec.name, err)
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
	resp, err := e.l.definite(ctx, txn{then: []clientv3.Op{oldest(e.spec.prefix, firstFew)}})
	if err != nil {
		return Leader{}, err
	}
	seen := lookAt(e.spec.prefix, "", resp.get(0))
	if len(seen.entries) == 0 && !seen.complete {
		var m model
		entries, _, err := e.l.children(ctx, e.spec.prefix)
		if err != nil {
			return Leader{}, err
		}
		m.reset(entries)
		seen.entries = m.list
	}
	if led := leaderOf(seen.entries); led.Token != 0 {
		return led, nil
	}
	return Leader{}, ErrNoLeader
}

// leaderOf is the first of a queue, the zero Leader of an empty one.
func leaderOf(entries []entry) Leader {
	if len(entries) == 0 {
		return Leader{}
	}
	return Leader{Value: entries[0].value, Token: entries[0].create}
}

// Leadership is the hold of an elected leader. Release resigns. It has the methods of [Held], with the Token of the election.
type Leadership struct{ *Held }

// Proclaim changes the value that others see. The token and the guard stay as they are. One RPC, which is repeated
// until the answer is definite, for 10 s where ctx has no deadline; then the error matches [ErrUnknownOutcome]. It fails with
// [ErrLost] where the leadership is lost, also meanwhile. Calls take effect one after the other.
func (l *Leadership) Proclaim(ctx context.Context, value string) error {
	g, ok := l.hold.(*grip)
	if !ok {
		return fail("proclaim", l.hold.name(), ErrLost)
	}
	if err := g.proclaim(ctx, value); err != nil {
		return doubtful("proclaim", g.name(), err)
	}
	return nil
}

func (g *grip) proclaim(ctx context.Context, value string) error {
	ctx, done, err := g.p.q.l.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	select {
	case g.writing <- struct{}{}:
		defer func() { <-g.writing }()
	case <-ctx.Done():
		return retry.ContextError(ctx)
	}
	if err := g.err(); err != nil {
		return err
	}
	if _, err := g.p.rewrite(ctx, value); err != nil {
		if over := g.err(); over != nil {
			return over
		}
		return err
	}
	return nil
}
