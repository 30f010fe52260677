package cache

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// Replica holds all keys below a dir in memory, decoded, and follows their changes. It is safe for
// concurrent use. The values it returns are shared and must not be modified.
type Replica[T any] struct {
	*watchedDir
	decoder[T]

	data *mvccMap[T]
	rev  atomic.Int64 // of data
	// Get takes the slow path: stale, closed, or behind a write of this process.
	slowPath     atomic.Bool
	typed        kv.Typed[T]
	badEntryHook func(key string, rev int64, err error)

	batches, badEntries, staleReads, fills atomic.Uint64

	// Keys delivered by a watch that is starting, else nil; guarded by data.mu.
	delivered map[string]struct{}

	pendingWrites pendingWrites

	followersMu        sync.Mutex
	followersClosed    bool // no new followers; guarded by followersMu
	followerGoroutines sync.WaitGroup
	followers          map[*follower[T]]struct{} // guarded by data.mu
}

// OpenReplica reads all keys below dir and returns once they are in memory and the watch is live.
// ctx bounds this call only; without a deadline, OpenReplica gives up after 10 s without progress.
// If etcd does not answer, the error matches [ErrUnavailable] and contains the endpoints with the
// causes.
//
// OpenReplica lists the keys in chunks and uses one server-side watch, which all watches of dir
// through the client's watcher share. If it takes longer than half a second, it makes one small
// read to find the cause.
func OpenReplica[T any](ctx context.Context, c Client, dir string, codec kv.Codec[T], o ...Option) (*Replica[T], error) {
	s, err := newOptions(c, dir, codec, o, true)
	if err != nil {
		return nil, opError("open replica", dir, err)
	}
	d := newWatchedDir("replica", c, dir, &s, s.maxStaleness)
	r := &Replica[T]{
		watchedDir: d, decoder: newDecoder(d.prefix, codec, s.readOnlyCheck),
		data: newMVCCMap[T](), badEntryHook: s.badEntryHook, pendingWrites: newPendingWrites(), followers: make(map[*follower[T]]struct{}),
	}
	r.watchOptions = []watch.Option{watch.WithSnapshot(), watch.WithBuffer(maxBufferedEvents)}
	r.handle, r.beforeWatch, r.onLive, r.onTick = r.onBatch, r.beginWatch, func() {}, r.updateSlowPath
	r.typed = kv.NewTyped(c.KV(), dir, codec).OnWrite(r.onWrite)
	if err := r.start(ctx, r.batches.Load); err != nil {
		return nil, opError("open replica", dir, err)
	}
	r.track(r.Stats)
	return r, nil
}

// maxBufferedEvents is the number of events a replica may fall behind its watch before it lists
// again.
const maxBufferedEvents = 16384

// Get returns the entry of key in the replica. It returns kv.ErrNotFound if the key is absent,
// kv.ErrDecode if its value does not decode, [ErrStale] if the watch has been down for longer than
// [WithMaxStaleness], and [ErrClosed] after Close.
//
// Get costs no RPC and does not check ctx, with two exceptions. If no Get was made for longer than
// the bound, the next one waits until etcd has confirmed that no change is missing: one round trip,
// and at most a second. If a write through Store returned before the replica had reached it, its
// key is read from etcd until the replica has caught up.
func (r *Replica[T]) Get(ctx context.Context, key string) (kv.Entry[T], error) {
	if r.slowPath.Load() {
		if e, err, done := r.getSlowly(ctx, key); done {
			return e, err
		}
	}
	if v := r.data.latest(key); v != nil && v.meta.Load() == nil { // the common case
		return kv.Entry[T]{
			Key: v.key, Value: v.value, ModRevision: v.modRevision, CreateRevision: v.modRevision - int64(v.createDistance), Version: int64(v.keyVersion),
		}, nil
	}
	return r.result("get", key, r.data.get(key))
}

// result returns the result of a read that found v.
func (r *Replica[T]) result(op, key string, v *version[T]) (kv.Entry[T], error) {
	if v == nil {
		return kv.Entry[T]{}, r.notFoundError(op, key)
	}
	if meta := v.meta.Load(); meta != nil {
		if meta.decodeErr != nil {
			return kv.Entry[T]{}, r.opError(op, key, meta.decodeErr)
		}
		r.verify(key, v.value, meta.checksum)
	}
	return v.entry(), nil
}

// notFoundError returns the error for an absent key, or for an invalid one.
func (r *Replica[T]) notFoundError(op, key string) error {
	if err := keyspace.Key(key, 0); err != nil {
		return r.opError(op, key, err)
	}
	return r.opError(op, key, kv.ErrNotFound)
}

// getSlowly handles a Get that the replica may not be able to answer. done is false if it can.
func (r *Replica[T]) getSlowly(ctx context.Context, key string) (e kv.Entry[T], err error, done bool) { //nolint:revive // err is part of the answer
	if r.closed() {
		return e, r.opError("get", key, r.closedError()), true
	}
	if rev := r.pendingWrites.revision(key); rev > 0 && rev > r.Revision() {
		ctx, running := r.observeFill(ctx)
		e, err = r.typed.Get(ctx, key)
		running.End(err, e.ModRevision)
		r.fills.Add(1)
		r.pendingWrites.add(key, e.ModRevision)
		return e, err, true
	}
	now, asOf := r.now(), time.Duration(r.asOf.Load())
	if !r.needsRefresh(now, asOf) || r.ensureFresh(ctx) {
		return e, nil, false
	}
	r.staleReads.Add(1)
	return e, r.opError("get", key, staleError(r.ageAtNextTick(now, asOf), r.staleness, r.cause())), true
}

// GetLinearizable is like Get, but reflects every write acknowledged to any client before the call.
// It costs one small RPC, shared by all concurrent callers, and on a quiet dir a message on the
// watch's stream. While the watch is down, it waits until ctx ends, or for 5 s if ctx has no
// deadline.
func (r *Replica[T]) GetLinearizable(ctx context.Context, key string) (kv.Entry[T], error) {
	const op = "get linearizable"
	if err := keyspace.Key(key, 0); err != nil {
		return kv.Entry[T]{}, r.opError(op, key, err)
	}
	ctx, stop := withReadTimeout(ctx)
	defer stop()
	rev, reached, err := r.readIndex.wait(ctx)
	if err == nil && !reached {
		err = r.wait(ctx, rev)
	}
	if err != nil {
		return kv.Entry[T]{}, r.opError(op, key, err)
	}
	return r.result(op, key, r.data.get(key))
}

// readTimeout bounds a read whose context has no deadline.
const readTimeout = 5 * time.Second

// withReadTimeout adds readTimeout to a context without a deadline.
func withReadTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, readTimeout)
}

// Store returns the typed store of the dir. A write through it returns once the replica shows it.
// If the watch is down, the write returns as soon as etcd has acknowledged it, and otherwise at
// most a second later; Get of its key then reads from etcd until the replica has caught up. The
// same holds for a write that is not applied because the key is in another state than expected, and
// for the deletion of an absent key, unless the revision of etcd, which they may require, cannot be
// read within that second. All, View, Len and Follow show the revision that the replica has
// reached.
func (r *Replica[T]) Store() kv.Typed[T] { return r.typed }

// writeWaitTimeout is how long a write waits for the watch to deliver it.
const writeWaitTimeout = time.Second

// onWrite is called after each write through Store, before the write returns. rev is 0 if the
// resulting state of the key is unknown, for example after deleting a key that another client has
// deleted. Then onWrite reads the current revision; if that fails, Get may return an earlier state
// of the key.
func (r *Replica[T]) onWrite(ctx context.Context, key string, rev int64) {
	ctx, stop := context.WithTimeout(ctx, writeWaitTimeout)
	defer stop()
	if rev == 0 {
		var reached bool
		var err error
		if rev, reached, err = r.readIndex.wait(ctx); err != nil || reached {
			return
		}
	}
	if rev <= r.rev.Load() || r.closed() || r.isLive() && r.wait(ctx, rev) == nil {
		return
	}
	r.pendingWrites.add(key, rev)
	r.slowPath.Store(true)
}

// All returns an iterator over the entries whose values decode, in key order. They are all of one
// revision, however long the loop takes. It does not check the bound of staleness; see Age. After
// Close it yields the last state.
func (r *Replica[T]) All() iter.Seq[kv.Entry[T]] {
	return func(yield func(kv.Entry[T]) bool) {
		snapshot := r.data.acquire()
		versions := r.data.list(snapshot)
		r.data.release(snapshot)
		for _, v := range versions {
			r.verifyVersion(v)
			if !yield(v.entry()) {
				return
			}
		}
	}
}

// verifyVersion panics if the value has changed since it was decoded.
func (r *Replica[T]) verifyVersion(v *version[T]) {
	if meta := v.meta.Load(); meta != nil {
		r.verify(v.key, v.value, meta.checksum)
	}
}

// View calls f with a function that reads keys at one revision, while the replica continues to
// follow changes. get returns false if the key is absent or its value does not decode. Until f
// returns, the memory of replaced versions is not freed. View does not check the bound of
// staleness; see Age.
func (r *Replica[T]) View(f func(get func(key string) (kv.Entry[T], bool))) {
	snapshot := r.data.acquire()
	defer r.data.release(snapshot)
	f(func(key string) (kv.Entry[T], bool) {
		v := r.data.latest(key).at(snapshot)
		if v == nil || v.decodeErr() != nil {
			return kv.Entry[T]{}, false
		}
		r.verifyVersion(v)
		return v.entry(), true
	})
}

// Len returns the number of entries whose values decode.
func (r *Replica[T]) Len() int { return int(r.data.valid.Load()) }

// Stats returns the current counters. It sends nothing.
func (r *Replica[T]) Stats() Stats {
	return Stats{
		Fills: r.fills.Load(), Stale: r.staleReads.Load(), BadEntries: r.badEntries.Load(), Restarts: r.watch.Restarts(),
		Entries: r.Len(), Bad: int(r.data.invalid.Load()),
	}
}

// Revision returns the revision that the replica has reached. It shows every change up to it.
func (r *Replica[T]) Revision() int64 {
	rev := r.rev.Load()
	if sub, _ := r.watch.Current(); sub != nil {
		rev = max(rev, sub.Status().Revision)
	}
	return rev
}

// WaitRevision waits until the replica shows every change up to rev, such as the revision of a
// write. Afterwards Get, All and View reflect it. It returns an error if ctx ends, or [ErrClosed]
// after Close. On a quiet dir it costs a message on the watch's stream.
func (r *Replica[T]) WaitRevision(ctx context.Context, rev int64) error {
	if err := r.wait(ctx, rev); err != nil {
		return opError("wait for revision", r.dir, err)
	}
	return nil
}

// Age bounds how stale the replica may be: it may have missed changes of the last Age. While the
// watch is live and the replica is read with Get, it is at most about half of [WithMaxStaleness];
// without reads, at most about 36 s. While the watch is down, it grows.
func (r *Replica[T]) Age() time.Duration { return r.age() }

// Err returns why the watch is down. It returns nil if the watch is live, or if the cause is not
// known yet.
func (r *Replica[T]) Err() error {
	if r.isLive() {
		return nil
	}
	if err := r.cause(); err != nil {
		return opError("watch", r.dir, err)
	}
	return nil
}

// Close ends the watch and waits for the functions passed to Follow and FollowRevisions, which must
// not call Close. It is idempotent. Afterwards Get returns [ErrClosed]; All, View and Len return
// the last state. The store of Store remains usable.
func (r *Replica[T]) Close() error {
	r.slowPath.Store(true)
	r.close()
	r.endFollowers()
	return nil
}

// updateSlowPath updates whether Get takes the slow path.
func (r *Replica[T]) updateSlowPath(now, asOf time.Duration) {
	slow := r.closed() || r.needsRefresh(now, asOf)
	r.pendingWrites.removeUpTo(r.Revision(), func(none bool) { r.slowPath.Store(slow || !none) })
	if r.closed() {
		r.slowPath.Store(true)
	}
}
