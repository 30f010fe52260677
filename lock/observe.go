package lock

import (
	"context"
	"iter"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// Observe yields who leads: at once, with the zero [Leader] for a vacancy, and then each time that the leader or its
// value changes, as long as ctx lives and the loop goes on. Changes that come while the loop's body runs may be folded
// into the last one. Errors of the connection, a cluster without a leader, and the compaction of history do not end it: what
// was said last may be outdated then, and it says nothing until it knows better. An error comes last, with a zero Leader: that
// of ctx, [ErrInvalid], [ErrPermission], [ErrClosed]. All who observe one name share one watch. One RPC for all of them, and
// one more each time that history was compacted away. Each loop over the sequence observes anew.
func (e *Election) Observe(ctx context.Context) iter.Seq2[Leader, error] {
	return func(yield func(Leader, error) bool) {
		left, err := e.observe(ctx, func(led Leader) bool { return yield(led, nil) })
		if !left {
			yield(Leader{}, fail("observe", e.spec.name, err))
		}
	}
}

// observe reports whether it ended since the loop was left.
func (e *Election) observe(ctx context.Context, out func(Leader) bool) (left bool, err error) {
	if e.bad != nil {
		return false, e.bad
	}
	if ctx == nil {
		return false, errNoContext
	}
	q := e.l.enter(e.spec.prefix)
	defer q.exit()
	told := Leader{Token: -1} // none
	var changed <-chan struct{}
	for {
		var led Leader
		led, changed, err = q.next(ctx, changed)
		if err != nil {
			return false, err
		}
		if led == told {
			continue
		}
		if told = led; !out(led) {
			return true, nil
		}
	}
}

// next waits for a change, unless there is none to wait for, and returns who leads and what to wait for next. It counts as
// a call under way, which the body of a loop does not.
func (q *queue) next(ctx context.Context, changed <-chan struct{}) (Leader, <-chan struct{}, error) {
	ctx, done, err := q.l.begin(ctx)
	if err != nil {
		return Leader{}, nil, err
	}
	defer done()
	q.watch()
	if changed != nil {
		select {
		case <-changed:
		case <-ctx.Done():
			return Leader{}, nil, retry.ContextError(ctx)
		}
	}
	entries, changed, err := q.snapshot(ctx)
	return leaderOf(entries), changed, err
}
