package cache

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// Replica holds everything below a dir in memory, decoded, and follows it. It is safe for concurrent use. The values that
// it hands out are shared and read-only.
type Replica[T any] struct {
	*feed
	decoder[T]

	table *table[T]
	rev   atomic.Int64 // the last revision that the table was changed to
	slow  atomic.Bool  // Get has to look twice: stale, closed, or behind what this process has written
	typed kv.Typed[T]
	bad   func(key string, rev int64, err error)

	batches, badOnes, stales, fills atomic.Uint64

	whole map[string]struct{} // the keys of a watch that begins, nil when it has; guarded by table.mu

	lag lag

	joining sync.Mutex
	over    bool                      // nobody may follow any more; guarded by joining
	telling sync.WaitGroup            // those who follow
	tails   map[*follower[T]]struct{} // guarded by table.mu
}

// OpenReplica reads everything below dir and returns when it is there and followed. ctx bounds that alone; without a
// deadline it gives up when nothing has happened for 10 s. The error of that matches [ErrUnavailable], and names the
// endpoints and why they cannot be reached. It costs a streamed list, and a server-side watch that it shares with whoever
// watches the same dir through the client's watcher; and a small read where it takes longer than half a second.
func OpenReplica[T any](ctx context.Context, c Client, dir string, codec kv.Codec[T], o ...Option) (*Replica[T], error) {
	s, err := newSettings(c, dir, codec, o, true)
	if err != nil {
		return nil, fail("open replica", dir, err)
	}
	f := newFeed("replica", c, dir, &s, s.staleness)
	r := &Replica[T]{
		feed: f, decoder: newDecoder(f.prefix, codec, s.checked),
		table: newTable[T](), bad: s.bad, lag: newLag(), tails: make(map[*follower[T]]struct{}),
	}
	r.opts = []watch.Option{watch.WithSnapshot(), watch.WithBuffer(replicaBuffer)}
	r.handle, r.begin, r.live, r.clock = r.apply, r.restart, func() {}, r.tickTock
	r.typed = hooked(c.KV(), dir, codec, r.wrote)
	if err := r.start(ctx, r.batches.Load); err != nil {
		return nil, fail("open replica", dir, err)
	}
	return r, nil
}

// replicaBuffer is how many events a replica may lag behind its watch before it lists again.
const replicaBuffer = 16384

// Get returns the entry of key as the replica has it: kv.ErrNotFound if it is absent, kv.ErrDecode if its value does not
// decode, [ErrStale] if the watch has been down for longer than [WithMaxStaleness], [ErrClosed] after Close. It costs no
// RPC and does not look at ctx, with two exceptions. The first Get after a time without any, longer than the bound, waits
// until etcd has said that nothing is missing: a round trip, a second at the most. And after a write through Store which
// the replica could not wait for, the key that was written is read from etcd until the replica has caught up.
func (r *Replica[T]) Get(ctx context.Context, key string) (kv.Entry[T], error) {
	if r.slow.Load() {
		if e, err, done := r.careful(ctx, key); done {
			return e, err
		}
	}
	if n := r.table.find(key); n != nil && n.more.Load() == nil { // as nearly always: nothing out of the ordinary
		return kv.Entry[T]{
			Key: n.key, Value: n.value, ModRevision: n.mod, CreateRevision: n.mod - int64(n.since), Version: int64(n.version),
		}, nil
	}
	return r.answer("get", key, r.table.get(key))
}

// answer makes an answer of a node.
func (r *Replica[T]) answer(op, key string, n *node[T]) (kv.Entry[T], error) {
	if n == nil {
		return kv.Entry[T]{}, r.absent(op, key)
	}
	if m := n.more.Load(); m != nil {
		if m.bad != nil {
			return kv.Entry[T]{}, r.fail(op, key, m.bad)
		}
		r.verify(key, n.value, m.sum)
	}
	return n.entry(), nil
}

func (r *Replica[T]) absent(op, key string) error {
	if err := keyspace.Key(key, 0); err != nil {
		return r.fail(op, key, err)
	}
	return r.fail(op, key, kv.ErrNotFound)
}

// careful answers where the replica itself may not.
func (r *Replica[T]) careful(ctx context.Context, key string) (e kv.Entry[T], err error, done bool) { //nolint:revive // the error is part of the answer
	if r.closed() {
		return e, r.fail("get", key, r.closedError()), true
	}
	if rev := r.lag.behind(key); rev > 0 && rev > r.Revision() {
		e, err = r.typed.Get(ctx, key)
		r.fills.Add(1)
		r.lag.raise(key, e.ModRevision)
		return e, err, true
	}
	now, asOf := r.now(), time.Duration(r.asOf.Load())
	if !r.ages(now, asOf) || r.use(ctx) {
		return e, nil, false
	}
	r.stales.Add(1)
	return e, r.fail("get", key, tooOld(r.reach(now, asOf), r.staleness, r.why())), true
}

// GetLinearizable is Get that misses no write which was acknowledged before it was called, by whichever client. It costs one
// small RPC, which all who ask at the same time share, and on a quiet dir a message on the watch's stream. It waits
// for as long as the watch is down, until ctx ends: 5 s if ctx has no deadline.
func (r *Replica[T]) GetLinearizable(ctx context.Context, key string) (kv.Entry[T], error) {
	const op = "get linearizable"
	if err := keyspace.Key(key, 0); err != nil {
		return kv.Entry[T]{}, r.fail(op, key, err)
	}
	ctx, stop, err := bounded(ctx)
	if err != nil {
		return kv.Entry[T]{}, r.fail(op, key, err)
	}
	defer stop()
	rev, reached, err := r.gate.wait(ctx)
	if err == nil && !reached {
		err = r.wait(ctx, rev)
	}
	if err != nil {
		return kv.Entry[T]{}, r.fail(op, key, err)
	}
	return r.answer(op, key, r.table.get(key))
}

// readTimeout is what a read has whose context has no deadline.
const readTimeout = 5 * time.Second

// bounded gives a read a deadline.
func bounded(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if ctx == nil {
		return nil, nil, fmt.Errorf("%w: nil context", errs.Invalid)
	}
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}, nil
	}
	ctx, stop := context.WithTimeout(ctx, readTimeout)
	return ctx, stop, nil
}

// Store is the typed store of the dir. A write through it returns when the replica shows it, or a second after etcd has acknowledged
// it, when the watch is down; then Get of that key reads etcd until the replica has caught up. So it is with a write that
// has found the key in another state than it was meant for, and with the deletion of an absent key. All, View, Len and
// Follow show the revision that the replica has reached.
func (r *Replica[T]) Store() kv.Typed[T] { return r.typed }

// seenWithin is how long a write waits for the watch to tell of it.
const seenWithin = time.Second

// wrote is called after each write through Store, before it returns. rev is 0 where what the key is now is not known, such
// as after the deletion of what somebody else has deleted: then etcd is asked where it stands.
func (r *Replica[T]) wrote(ctx context.Context, key string, rev int64) {
	ctx, stop := context.WithTimeout(ctx, seenWithin)
	defer stop()
	if rev == 0 {
		var reached bool
		var err error
		if rev, reached, err = r.gate.wait(ctx); err != nil || reached {
			return
		}
	}
	if rev <= r.rev.Load() || r.closed() || r.isLive() && r.wait(ctx, rev) == nil {
		return
	}
	r.lag.raise(key, rev)
	r.slow.Store(true)
}

// All yields every entry whose value decodes, in key order, all of one revision, however long the loop takes. It looks at
// no bound: see Age. After Close it yields the last state.
func (r *Replica[T]) All() iter.Seq[kv.Entry[T]] {
	return func(yield func(kv.Entry[T]) bool) {
		step := r.table.view()
		nodes := r.table.all(step)
		r.table.end(step)
		for _, n := range nodes {
			r.verifyNode(n)
			if !yield(n.entry()) {
				return
			}
		}
	}
}

func (r *Replica[T]) verifyNode(n *node[T]) {
	if m := n.more.Load(); m != nil {
		r.verify(n.key, n.value, m.sum)
	}
}

// View runs f with a function that reads keys, all of one revision, while the replica goes on. What f holds up is memory alone:
// what has changed since is kept until it returns. A key that is absent or does not decode is false. Like All it looks
// at no bound.
func (r *Replica[T]) View(f func(get func(key string) (kv.Entry[T], bool))) {
	step := r.table.view()
	defer r.table.end(step)
	f(func(key string) (kv.Entry[T], bool) {
		n := r.table.find(key).at(step)
		if n == nil || n.badness() != nil {
			return kv.Entry[T]{}, false
		}
		r.verifyNode(n)
		return n.entry(), true
	})
}

// Len is how many entries there are whose value decodes.
func (r *Replica[T]) Len() int { return int(r.table.goods.Load()) }

// Stats returns the counters. It sends nothing.
func (r *Replica[T]) Stats() Stats {
	return Stats{
		Fills: r.fills.Load(), Stale: r.stales.Load(), BadEntries: r.badOnes.Load(), Restarts: r.restarts.Load(),
		Entries: r.Len(), Bad: int(r.table.bads.Load()),
	}
}

// Revision is the one that the replica has reached: it shows every change up to it.
func (r *Replica[T]) Revision() int64 {
	rev := r.rev.Load()
	if sub := r.sub.Load(); sub != nil {
		rev = max(rev, sub.Status().Revision)
	}
	return rev
}

// WaitRevision waits until the replica shows every change up to rev, which some write has returned: after it, Get, All and View
// do. It ends with ctx, and with [ErrClosed]. On a quiet dir it costs a message on the watch's stream.
func (r *Replica[T]) WaitRevision(ctx context.Context, rev int64) error {
	if err := r.wait(ctx, rev); err != nil {
		return fail("wait for revision", r.dir, err)
	}
	return nil
}

// Age is for how long the replica may have missed changes. While the watch is well and the replica is read by Get it is at
// most about half of [WithMaxStaleness]; if nobody reads, at most about 36 s. While the watch is down, it grows.
func (r *Replica[T]) Age() time.Duration { return r.age() }

// Err is why the watch is down, nil while it is not, and as long as that is not known.
func (r *Replica[T]) Err() error {
	if r.isLive() {
		return nil
	}
	if err := r.why(); err != nil {
		return fail("watch", r.dir, err)
	}
	return nil
}

// Close ends the watch and waits for the functions given to Follow, which must not call it. It is idempotent. Afterwards Get
// returns [ErrClosed], and All, View and Len the last state. The store goes on.
func (r *Replica[T]) Close() error {
	r.slow.Store(true)
	r.close()
	r.endFollowers()
	return nil
}

// tickTock is the clock: it says whether Get has to look twice.
func (r *Replica[T]) tickTock(now, asOf time.Duration) {
	slow := r.closed() || r.ages(now, asOf)
	r.lag.drop(r.Revision(), func(none bool) { r.slow.Store(slow || !none) })
	if r.closed() {
		r.slow.Store(true)
	}
}
