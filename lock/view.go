package lock

import (
	"context"
	"slices"
	"time"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// view is a queue to somebody who waits for more than to be admitted.
type view struct {
	q     *queue
	since int64           // what is known of the queue as it was before is of no use
	seen  <-chan struct{} // closed when the queue has changed since it was looked at; nil before
	ask   *time.Ticker
}

// view makes sure that the queue is watched, and shows it as it was at revision since, or later. The caller is a user, and
// must call stop.
func (q *queue) view(since int64) *view {
	q.watch()
	return &view{q: q, since: since, ask: time.NewTicker(askEvery)}
}

func (v *view) stop() { v.ask.Stop() }

// next returns the entries, which are read-only, as soon as they are known, and from then on when they have changed.
// While the watch is not live etcd is asked now and then; asked says that they come of that.
func (v *view) next(ctx context.Context) (entries []entry, asked bool, err error) {
	for {
		v.q.mu.Lock()
		failed, changed := v.q.failed, v.q.changed
		fresh := v.q.known && v.q.rev >= v.since && changed != v.seen
		if fresh {
			entries = slices.Clone(v.q.model.list)
		}
		v.q.mu.Unlock()
		switch {
		case failed != nil:
			return nil, false, failed
		case fresh:
			v.seen = changed
			return entries, false, nil
		}
		select {
		case <-changed:
		case <-v.ask.C:
			if entries, ok := v.q.poll(ctx); ok {
				return entries, true, nil
			}
		case <-ctx.Done():
			return nil, false, retry.ContextError(ctx)
		}
	}
}

// poll reads the queue where the watch is not live.
func (q *queue) poll(ctx context.Context) ([]entry, bool) {
	if q.live() {
		return nil, false
	}
	ctx, stop := context.WithTimeout(ctx, attemptFirst)
	defer stop()
	entries, _, err := q.l.children(ctx, q.prefix)
	if err != nil {
		return nil, false // next time
	}
	q.l.counts.confirmed.Add(1)
	slices.SortFunc(entries, before)
	return entries, true
}
