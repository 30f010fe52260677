package lock

import (
	"context"
	"iter"

	"github.com/etcdkit/etcdkit/internal/keywatch"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// Observe yields the leader at once, and again each time that the leader or its value changes,
// until ctx ends or the loop is left. It yields the zero [Leader] while there is no leader. Changes
// in quick succession, or during the body of the loop, may be merged into the last one. Errors of
// the connection, and a cluster without a leader, do not end the sequence. The last value may be
// outdated then, and Observe yields nothing until it has read the queue again.
//
// An error comes last, with a zero Leader: that of ctx, [ErrInvalid], [ErrPermission] or
// [ErrClosed], or that etcd does not accept the user or the password. All observers of one name in
// a locker share one watch, on the key of the leader. Observe costs them together one RPC, one more
// for each change, and one every 30 s. Each loop over the sequence observes anew.
func (e *Election) Observe(ctx context.Context) iter.Seq2[Leader, error] {
	return func(yield func(Leader, error) bool) {
		stopped, err := e.observe(ctx, func(leader Leader) bool { return yield(leader, nil) })
		if !stopped {
			yield(Leader{}, opError("observe", e.kind.name, err))
		}
	}
}

// observe implements Observe. It reports whether it ended because the loop was left.
func (e *Election) observe(ctx context.Context, yield func(Leader) bool) (stopped bool, err error) {
	if e.err != nil {
		return false, e.err
	}
	q := e.l.retainQueue(&e.kind)
	defer q.release()
	o := q.sharedObserver()
	o.join()
	defer o.release()
	last := Leader{Token: -1} // differs from every leader
	var changed <-chan struct{}
	for {
		var leader Leader
		leader, changed, err = o.next(ctx, changed)
		if err != nil {
			return false, err
		}
		if leader == last {
			continue
		}
		if last = leader; !yield(leader) {
			return true, nil
		}
	}
}

// leaderObserver follows the leader of an election on one goroutine, for all observers of this
// process.
type leaderObserver struct {
	sharedRun

	q       *queue
	isKnown bool
	leader  Leader
	err     error         // why it has ended
	changed chan struct{} // closed when one of the fields above has changed
}

// join joins the observation, and starts it if necessary. The caller must call release.
func (o *leaderObserver) join() {
	o.retain(o.q.l, func() { o.isKnown, o.err, o.changed = false, nil, make(chan struct{}) }, o.run)
}

// next waits for changed to be closed if it is not nil. It returns the leader and the channel to
// wait for next. It counts as a call in progress, which the body of a loop does not.
func (o *leaderObserver) next(ctx context.Context, changed <-chan struct{}) (Leader, <-chan struct{}, error) {
	ctx, done, err := o.q.l.startCall(ctx)
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
		known, leader, err := o.isKnown, o.leader, o.err
		changed = o.changed
		o.mu.Unlock()
		if known || err != nil {
			return leader, changed, err
		}
	}
}

// publish publishes the leader, or the error that ends the observation. It does nothing if ctx has
// ended: no observer is left, or a later run has taken over.
func (o *leaderObserver) publish(ctx context.Context, leader Leader, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if ctx.Err() != nil || err == nil && o.isKnown && o.leader == leader {
		return
	}
	o.isKnown, o.leader, o.err = err == nil, leader, err
	if err != nil {
		o.end()
	}
	close(o.changed)
	o.changed = make(chan struct{})
}

// run reads the leader, then watches the leader's key, or the prefix for puts if there is no
// leader, and repeats this after each change.
func (o *leaderObserver) run(ctx context.Context) {
	watch := o.q.newWatch()
	defer watch.close()
	backoffs := newBackoff(maxPollInterval)
	prefix := o.q.prefix
	for ctx.Err() == nil {
		oldest, rev, err := o.q.l.readOldest(ctx, prefix)
		if err == nil {
			o.publish(ctx, newLeader(oldest), nil)
			target := keywatch.Target{Key: prefix, Prefix: true, Filter: keywatch.Puts}
			if oldest != nil {
				target = keywatch.Target{Key: oldest.key}
			}
			watch.setTargets([]keywatch.Target{target}, nil)
			backoffs.Reset()
			_, err = watch.await(ctx, &rev, watch.requireCheck)
		}
		switch {
		case err == nil:
		case isPermanent(err):
			o.publish(ctx, Leader{}, err)
			return
		default:
			_ = retry.Sleep(ctx, backoffs.NextBackOff())
		}
	}
}
