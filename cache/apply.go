package cache

import (
	"context"

	"github.com/etcdkit/etcdkit/internal/errs"

	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// beginWatch prepares for a new watch, which delivers the whole state first.
func (r *Replica[T]) beginWatch() {
	r.data.mu.Lock()
	defer r.data.mu.Unlock()
	switch {
	case r.rev.Load() == 0: // nothing is published yet
		r.data.startLoad()
	case r.data.pendingValid+r.data.pendingInvalid > 0:
		r.delivered = make(map[string]struct{})
	}
}

// onBatch applies a batch, and commits if the batch is the last one of its revision.
func (r *Replica[T]) onBatch(_ context.Context, b watch.Batch) error {
	r.batches.Add(1)
	for _, bad := range r.applyBatch(&b) {
		r.reportBadEntry(bad)
	}
	return nil
}

// applyBatch applies a batch and returns the values that did not decode.
func (r *Replica[T]) applyBatch(b *watch.Batch) (bad []badEntry) {
	r.data.mu.Lock()
	defer r.data.mu.Unlock()
	for i := range b.Events {
		if err := r.applyEvent(&b.Events[i]); err != nil {
			bad = append(bad, badEntry{b.Events[i].Key, b.Events[i].ModRevision, err})
		}
	}
	if b.More {
		return bad
	}
	if r.delivered != nil {
		r.removeUndelivered(b.Revision)
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

// reportBadEntry logs and counts a value that did not decode, and calls the function of
// WithBadEntry. The caller must not hold a lock.
func (r *Replica[T]) reportBadEntry(e badEntry) {
	r.badEntries.Add(1)
	r.log.WarnContext(r.ctx, "cache received a value that does not decode", "dir", r.dir, "key", errs.Short(e.key), "revision", e.rev, "error", e.err)
	if r.badEntryHook != nil {
		r.callSafely(func() { r.badEntryHook(e.key, e.rev, r.opError("decode", e.key, e.err)) })
	}
}

// applyEvent applies one event. It returns an error if the value does not decode.
func (r *Replica[T]) applyEvent(e *watch.Event) error {
	if e.Type == watch.Delete {
		delete(r.delivered, e.Key)
		r.data.remove(e.Key, e.ModRevision)
		return nil
	}
	if r.delivered != nil {
		r.delivered[e.Key] = struct{}{}
	}
	v, checksum, err := r.decode(e.Key, e.Value, e.ModRevision)
	r.data.set(newVersion(kv.Entry[T]{
		Key: e.Key, Value: v, CreateRevision: e.CreateRevision, ModRevision: e.ModRevision, Version: e.Version, Lease: e.Lease,
	}, checksum, err))
	return err
}

// removeUndelivered deletes the keys that a new watch has not delivered.
func (r *Replica[T]) removeUndelivered(rev int64) {
	for _, key := range r.data.keys() {
		if _, ok := r.delivered[key]; !ok {
			r.data.remove(key, rev)
		}
	}
	r.delivered = nil
}

// publish commits and passes the changes to the followers. The caller holds data.mu.
func (r *Replica[T]) publish(rev int64) {
	r.data.commit()
	if before := r.rev.Swap(rev); rev < before {
		r.pendingWrites.removeUpTo(allRevisions, func(bool) {})
	}
	r.notifyFollowers(rev)
	r.data.trim()
}
