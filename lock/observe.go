package lock

import (
	"context"
	"iter"
	"sync"

	"github.com/etcdkit/etcdkit/internal/keywatch"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// Observe yields who leads: at once, with the zero [Leader] for a vacancy, and then each time that the leader or its
// value changes, as long as ctx lives and the loop goes on. Changes that come in quick succession, or while the loop's body runs,
// may be folded into the last one. Errors of the connection, and a cluster without a leader, do not end it: what was said last may be
// outdated then, and it says nothing until it knows better. An error comes last, with a zero Leader: that of ctx, [ErrInvalid],
// [ErrPermission], [ErrClosed]. All who observe one name share one watch, on the leader's key. One RPC for all of them, one
// more for each change, and one every 30 s. Each loop over the sequence observes anew.
func (e *Election) Observe(ctx context.Context) iter.Seq2[Leader, error] {
	return func(yield func(Leader, error) bool) {
		left, err := e.observe(ctx, func(led Leader) bool { return yield(led, nil) })
		if !left {
			yield(Leader{}, fail("observe", e.kind.name, err))
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
	q := e.l.enter(&e.kind)
	defer q.exit()
	o := q.observe()
	defer o.leave()
	told := Leader{Token: -1} // none
	var changed <-chan struct{}
	for {
		var led Leader
		led, changed, err = o.next(ctx, changed)
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

// observation follows who leads for all of this process who observe one election, on one goroutine.
type observation struct {
	q *queue

	mu      sync.Mutex
	users   int
	stop    context.CancelFunc
	known   bool
	leader  Leader
	err     error         // it has ended
	changed chan struct{} // closed when one of those before has changed
}

// observe begins to follow who leads, unless that is under way. leave must follow.
func (q *queue) observe() *observation {
	q.l.mu.Lock()
	if q.observation == nil {
		q.observation = &observation{q: q}
	}
	o := q.observation
	q.l.mu.Unlock()
	o.join()
	return o
}

func (o *observation) join() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.users++
	if o.users > 1 && o.err == nil {
		return
	}
	if o.stop != nil {
		o.stop()
	}
	o.known, o.err, o.changed = false, nil, make(chan struct{})
	ctx, stop := context.WithCancel(o.q.l.life)
	o.stop = stop
	if !o.q.l.spawn(func() { o.run(ctx) }) {
		o.err = closedError("locker")
	}
}

func (o *observation) leave() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.users--
	if o.users == 0 {
		o.stop()
		o.stop = nil
	}
}

// next waits for a change, unless there is none to wait for, and returns who leads and what to wait for next. It counts as
// a call under way, which the body of a loop does not.
func (o *observation) next(ctx context.Context, changed <-chan struct{}) (Leader, <-chan struct{}, error) {
	ctx, done, err := o.q.l.begin(ctx)
	if err != nil {
		return Leader{}, nil, err
	}
	defer done()
	for {
		if changed != nil {
			select {
			case <-changed:
			case <-ctx.Done():
				return Leader{}, nil, retry.ContextError(ctx)
			}
		}
		if err := retry.ContextError(ctx); err != nil {
			return Leader{}, nil, err
		}
		o.mu.Lock()
		known, led, err := o.known, o.leader, o.err
		changed = o.changed
		o.mu.Unlock()
		if known || err != nil {
			return led, changed, err
		}
	}
}

// tell publishes what is known, unless ctx has ended: then the next to join knows better.
func (o *observation) tell(ctx context.Context, led Leader, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if ctx.Err() != nil || err == nil && o.known && o.leader == led {
		return
	}
	o.known, o.leader, o.err = err == nil, led, err
	close(o.changed)
	o.changed = make(chan struct{})
}

// run looks who leads, and watches the leader's key, or, if nobody leads, for a key to be put, until that tells of a change.
func (o *observation) run(ctx context.Context) {
	watch := o.q.newWatch()
	defer watch.close()
	pauses := newBackoff(maxPollInterval)
	prefix := o.q.prefix
	for ctx.Err() == nil {
		first, seen, err := o.q.l.readOldest(ctx, prefix)
		if err == nil {
			o.tell(ctx, leaderOf(first), nil)
			target := keywatch.Target{Key: prefix, Prefix: true, Filter: keywatch.Puts}
			if first != nil {
				target = keywatch.Target{Key: first.key}
			}
			watch.set([]keywatch.Target{target}, nil)
			pauses.Reset()
			_, err = watch.await(ctx, &seen, watch.lookAgain)
		}
		switch {
		case err == nil:
		case permanent(err):
			o.tell(ctx, Leader{}, err)
			return
		default:
			sleep(ctx, pauses.NextBackOff())
		}
	}
}
