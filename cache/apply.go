package cache

import (
	"context"

	"github.com/etcdkit/etcdkit/internal/errs"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// restart prepares for a new watch, which delivers the whole state first.
func (r *Replica[T]) restart() {
	r.table.mu.Lock()
	defer r.table.mu.Unlock()
	switch {
	case r.rev.Load() == 0: // nothing is published yet
		r.table.begin()
	case r.table.good+r.table.bad > 0:
		r.whole = make(map[string]struct{})
	}
}

// apply adds a batch to the current step, and commits the step if the batch is the last of its
// revision.
func (r *Replica[T]) apply(_ context.Context, b watch.Batch) error {
	r.batches.Add(1)
	for _, bad := range r.take(&b) {
		r.report(bad)
	}
	return nil
}

// take adds a batch to the step and returns the values that did not decode.
func (r *Replica[T]) take(b *watch.Batch) (bad []badEntry) {
	r.table.mu.Lock()
	defer r.table.mu.Unlock()
	for i := range b.Events {
		if err := r.event(&b.Events[i]); err != nil {
			bad = append(bad, badEntry{b.Events[i].Key, b.Events[i].ModRevision, err})
		}
	}
	if b.More {
		return bad
	}
	if r.whole != nil {
		r.sweep(b.Revision)
	}
	r.publish(b.Revision)
	return bad
}

// badEntry is a value that did not decode.
type badEntry struct {
	key string
	rev int64
	err error
}

// report logs and counts a value that did not decode, and calls the function of WithBadEntry. The
// caller holds no lock.
func (r *Replica[T]) report(e badEntry) {
	r.badOnes.Add(1)
	r.log.WarnContext(r.ctx, "cache was given a value that does not decode", "dir", r.dir, "key", errs.Short(e.key), "revision", e.rev, "error", e.err)
	if r.bad != nil {
		r.contained(func() { r.bad(e.key, e.rev, r.fail("decode", e.key, e.err)) })
	}
}

// event adds one event to the step. It returns an error if the value does not decode.
func (r *Replica[T]) event(e *watch.Event) error {
	if e.Type == watch.Delete {
		delete(r.whole, e.Key)
		r.table.remove(e.Key, e.ModRevision)
		return nil
	}
	if r.whole != nil {
		r.whole[e.Key] = struct{}{}
	}
	v, sum, err := r.decode(e.Key, e.Value, e.ModRevision)
	r.table.set(newNode(kv.Entry[T]{
		Key: e.Key, Value: v, CreateRevision: e.CreateRevision, ModRevision: e.ModRevision, Version: e.Version, Lease: e.Lease,
	}, sum, err))
	return err
}

// sweep deletes the keys that a new watch has not delivered.
func (r *Replica[T]) sweep(rev int64) {
	for _, key := range r.table.keys() {
		if _, ok := r.whole[key]; !ok {
			r.table.remove(key, rev)
		}
	}
	r.whole = nil
}

// publish commits the step and passes its changes to the followers. The caller holds table.mu.
func (r *Replica[T]) publish(rev int64) {
	r.table.commit()
	if before := r.rev.Swap(rev); rev < before {
		r.lag.drop(everyRevision, func(bool) {})
	}
	r.tell(rev)
	r.table.cut()
}
