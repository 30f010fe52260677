package lock

import (
	"context"
	"errors"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/watch"
)

// run watches, and begins anew when a watch has ended, until ctx does.
func (q *queue) run(ctx context.Context) {
	pauses := retry.Policy{BaseDelay: pauseBetween, MaxDelay: 5 * time.Second}.Backoff()
	pauses.Reset()
	for {
		began := time.Now()
		err := q.follow(ctx)
		if ctx.Err() != nil {
			q.disarm()
			return
		}
		q.l.counts.reopened.Add(1)
		q.forget(err)
		q.l.logger.InfoContext(ctx, "queue watch reopened", "key", errs.Short(q.prefix), "error", err)
		if time.Since(began) > time.Minute {
			pauses.Reset()
		}
		if !sleep(ctx, pauses.NextBackOff()) {
			q.disarm()
			return
		}
	}
}

// follow watches until the watch ends.
func (q *queue) follow(ctx context.Context) error {
	sub, err := q.l.watcher.Subscribe(watch.Prefix(q.prefix), q.handle)
	if err != nil {
		return err
	}
	defer sub.Close() //nolint:errcheck // it has none
	q.mu.Lock()
	q.sub = sub
	q.mu.Unlock()
	select {
	case <-sub.Ready():
	case <-sub.Done():
		return sub.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := q.read(ctx); err != nil {
		return err
	}
	select {
	case <-sub.Done():
		return sub.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read reads the queue and makes it the model: one RPC, and more only where etcd does not answer.
func (q *queue) read(ctx context.Context) error {
	q.mu.Lock()
	sub := q.sub
	q.mu.Unlock()
	if sub == nil {
		return nil // the watch has ended a moment ago: when it is begun anew it reads for itself
	}
	reopened := sub.Status().Reopened // before: what happens while reading is not confirmed by it
	entries, rev, err := q.l.children(ctx, q.prefix)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sub != sub {
		return nil // the watch was begun anew meanwhile, and reads for itself
	}
	if rev >= q.rev {
		q.model.reset(entries)
		q.rev, q.base, q.reopened = rev, rev, reopened
	}
	for i := range q.early {
		q.apply(&q.early[i])
	}
	q.early, q.failed = nil, nil
	q.know(true)
	for i := range q.model.list {
		q.suspect(&q.model.list[i])
	}
	q.settle()
	return nil
}

// handle takes what the watch delivers.
func (q *queue) handle(_ context.Context, b watch.Batch) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.known {
		q.early = append(q.early, b.Events...)
		return nil
	}
	for i := range b.Events {
		q.apply(&b.Events[i])
	}
	q.rev = max(q.rev, b.Revision)
	q.settle()
	return nil
}

// apply makes one change to the model. The lock is held.
func (q *queue) apply(e *watch.Event) {
	if e.ModRevision <= q.base || !direct(q.prefix, e.Key) {
		return
	}
	q.model.apply(e)
	q.rev = max(q.rev, e.ModRevision)
	if e.Type == watch.Delete {
		delete(q.suspects, e.Key)
		return
	}
	q.suspect(&entry{key: e.Key})
}

// forget says that the model is nothing to rely on until the queue is read again.
func (q *queue) forget(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.early, q.rev, q.base, q.sub, q.model = nil, 0, 0, nil, model{}
	q.know(false)
	if errors.Is(err, errs.Permission) || errors.Is(err, errs.Invalid) || errors.Is(err, errs.Closed) {
		q.failed = err
		q.settle()
	}
}

// know says whether the model is to be relied on. The lock is held.
func (q *queue) know(yes bool) {
	switch {
	case yes && !q.known:
		q.l.counts.watched.Add(1)
	case !yes && q.known:
		q.l.counts.watched.Add(-1)
	}
	q.known = yes
	for _, p := range q.places {
		p.admitted = p.admitted && yes
	}
}

// confirm makes sure of a place that was found admitted, and reports whether that counts as it is; if not, the queue was
// read, and it is to be looked at again.
func (q *queue) confirm(ctx context.Context) (bool, error) {
	q.mu.Lock()
	sub, reopened, known := q.sub, q.reopened, q.known
	q.mu.Unlock()
	if !known {
		return false, nil
	}
	if sub.Status().Reopened == reopened {
		return true, nil
	}
	q.l.counts.confirmed.Add(1)
	return false, q.read(ctx)
}

// live reports whether the watch delivers changes as they happen.
func (q *queue) live() bool {
	q.mu.Lock()
	sub, known := q.sub, q.known
	q.mu.Unlock()
	return known && sub.Status().State == watch.StateLive
}

// disarm stops the timer of a queue that is no longer watched.
func (q *queue) disarm() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sub = nil
	q.know(false)
	if q.inspect != nil {
		q.inspect.Stop()
	}
}
