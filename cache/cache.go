package cache

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/kv"
)

// Cache keeps what was read last of what lies below a dir, decoded: a bounded number of keys, absent ones included. A watch
// keeps them current. It is safe for concurrent use. The values that it hands out are shared and read-only.
type Cache[T any] struct {
	*feed
	decoder[T]

	ttl    time.Duration
	lookup func(dir string, hit bool)
	typed  kv.Typed[T]

	observed bool         // each hit is of interest to somebody
	items    *shelf[T]    // what hits come from
	horizon  atomic.Int64 // Get looks twice at items as of an earlier time
	oldest   atomic.Int64 // items as of an earlier time are too old; both in nanoseconds since feed.born
	inserted atomic.Uint64
	grace    uint64 // insertions after which a hit tells the policy again

	hits                                               counter
	misses, fills, changes, evictions, stales, badOnes atomic.Uint64

	// Whoever changes items holds mu. The policy has the same keys: it decides which of them stays.
	mu      sync.Mutex
	policy  *simplelru.LRU[string, struct{}]
	flights map[string]*flight[T]
	limbo   bool // a watch begins: what is read may change unheard of, and is not kept
}

// item is what is known of a key. It does not change, except for touched.
type item[T any] struct {
	key   string
	entry kv.Entry[T]   // empty where err is not nil
	err   error         // kv.ErrNotFound, or kv.ErrDecode, as a read returns it
	rev   int64         // nothing newer than the entry had happened up to here
	asOf  time.Duration // since feed.born: then, at the earliest, it was so
	sum   uint64

	touched atomic.Uint64 // Cache.inserted when the policy was told last
}

// A hit tells the policy only when an eighth of the cache was replaced since that item told it last. So a warm
// cache takes no lock, and what is in use is never far from the recent end.
const graceParts = 8

// Open begins to watch dir, and returns when it is watched: nothing is read yet. ctx bounds that alone; without a deadline it
// gives up when nothing has happened for 10 s. The error of that is as of [OpenReplica]. It costs a server-side watch, which
// it shares with whoever watches the same dir through the client's watcher; and a small read where it takes longer than
// half a second.
func Open[T any](ctx context.Context, c Client, dir string, codec kv.Codec[T], o ...Option) (*Cache[T], error) {
	s, err := newSettings(c, dir, codec, o, false)
	if err != nil {
		return nil, fail("open", dir, err)
	}
	f := newFeed("cache", c, dir, &s, min(s.ttl, s.staleness))
	out := &Cache[T]{
		feed: f, decoder: newDecoder(f.prefix, codec, s.checked),
		ttl: s.ttl, lookup: s.lookup, observed: s.lookup != nil || s.checked, grace: uint64(s.entries / graceParts), //nolint:gosec // is positive
		items: newShelf[T](), flights: make(map[string]*flight[T]),
	}
	out.policy, err = simplelru.NewLRU(s.entries, func(key string, _ struct{}) { out.items.remove(key) })
	if err != nil {
		return nil, fail("open", dir, fmt.Errorf("%w: %w", errs.Invalid, err))
	}
	out.handle, out.begin, out.live, out.clock = out.apply, out.enterLimbo, out.leaveLimbo, out.tickTock
	out.typed = hooked(c.KV(), dir, codec, out.wrote)
	if err := out.start(ctx, func() uint64 { return 0 }); err != nil {
		return nil, fail("open", dir, err)
	}
	return out, nil
}

// Get returns the entry of key, from memory where that is possible: kv.ErrNotFound if it is absent, which is remembered as well,
// kv.ErrDecode if its value does not decode, [ErrClosed] after Close. What it returns is as old as the watch is behind, usually
// milliseconds, never older than [WithMaxStaleness], and never older than what this process has written through Store
// before. A hit costs no RPC, allocates nothing and does not look at ctx. A miss costs one RPC, which all who ask for the
// key meanwhile share; it is given 5 s, and ends when nobody waits for it any more.
func (c *Cache[T]) Get(ctx context.Context, key string) (kv.Entry[T], error) {
	if it := c.items.get(key); it != nil && int64(it.asOf) >= c.horizon.Load() {
		if c.inserted.Load()-it.touched.Load() > c.grace || c.observed {
			c.notice(key, it)
		}
		c.hits.add()
		return it.entry, it.err
	}
	if c.ages(c.now(), time.Duration(c.asOf.Load())) && !c.closed() {
		c.use(ctx)
		if it := c.peek(key); it != nil {
			c.hit(key, it)
			return it.entry, it.err
		}
		if ctx != nil && ctx.Err() != nil {
			return kv.Entry[T]{}, c.fail("get", key, c.gaveUp(ctx))
		}
	}
	return c.miss(ctx, "get", key, want{memory: true})
}

// peek returns what is in memory, if it is not too old.
func (c *Cache[T]) peek(key string) *item[T] {
	it := c.items.get(key)
	if it == nil || int64(it.asOf) < c.oldest.Load() {
		return nil
	}
	return it
}

// hit notes that an item was of use.
func (c *Cache[T]) hit(key string, it *item[T]) {
	c.notice(key, it)
	c.hits.add()
}

// notice does what few hits need: it tells the policy, and those who want to know.
func (c *Cache[T]) notice(key string, it *item[T]) {
	if c.inserted.Load()-it.touched.Load() > c.grace {
		c.mu.Lock()
		c.policy.Get(key)
		it.touched.Store(c.inserted.Load())
		c.mu.Unlock()
	}
	if c.lookup != nil {
		c.lookup(c.dir, true)
	}
	if c.check && it.err == nil {
		c.verify(key, it.entry.Value, it.sum)
	}
}

// miss reads key from etcd.
func (c *Cache[T]) miss(ctx context.Context, op, key string, w want) (kv.Entry[T], error) {
	if c.lookup != nil {
		c.lookup(c.dir, false)
	}
	c.misses.Add(1)
	err := keyspace.Key(key, 0)
	switch {
	case err != nil:
	case ctx == nil:
		err = fmt.Errorf("%w: nil context", errs.Invalid)
	case c.closed():
		err = c.closedError()
	default:
		err = retry.ContextError(ctx)
	}
	if err != nil {
		return kv.Entry[T]{}, c.fail(op, key, err)
	}
	if !c.fresh(c.now(), time.Duration(c.asOf.Load())) {
		c.stales.Add(1)
	}
	it, err := c.fetch(ctx, key, w)
	if err != nil {
		return kv.Entry[T]{}, c.fail(op, key, err)
	}
	if c.check && it.err == nil {
		c.verify(key, it.entry.Value, it.sum)
	}
	return it.entry, it.err
}

// GetLinearizable is Get that misses no write which was acknowledged before it was called, by whichever client. It costs one
// small RPC, which all who ask at the same time share, whatever the key, and on a quiet dir a message on the watch's
// stream. A key that is not in memory, or not while the watch is down, is read from etcd instead.
func (c *Cache[T]) GetLinearizable(ctx context.Context, key string) (kv.Entry[T], error) {
	const op = "get linearizable"
	if c.peek(key) == nil || !c.isLive() {
		return c.miss(ctx, op, key, want{anew: true})
	}
	ctx, stop, err := bounded(ctx)
	if err != nil {
		return kv.Entry[T]{}, c.fail(op, key, err)
	}
	defer stop()
	rev, reached, err := c.gate.wait(ctx)
	if err != nil {
		return kv.Entry[T]{}, c.fail(op, key, err)
	}
	if it := c.peek(key); it != nil && (reached || it.rev >= rev) {
		c.hit(key, it)
		return it.entry, it.err
	}
	return c.miss(ctx, op, key, want{rev: rev})
}

// GetAtLeast is Get that is not older than minRev: with the revision that a write has returned, it shows that write, whichever
// process has made it. It is a hit where the watch has come that far already, and else one RPC. A revision that etcd has not
// reached is [ErrInvalid].
func (c *Cache[T]) GetAtLeast(ctx context.Context, key string, minRev int64) (kv.Entry[T], error) {
	it := c.peek(key)
	if it != nil && it.rev < minRev {
		if c.sub.Load().Status().Revision < minRev {
			it = nil
		} else {
			it = c.peek(key) // as it is now
		}
	}
	if it != nil {
		c.hit(key, it)
		return it.entry, it.err
	}
	return c.miss(ctx, "get at least", key, want{rev: minRev, memory: true})
}

// Store is the typed store of the dir. What is written through it is dropped from the cache, and no read of it that had begun is
// kept, before the write returns: whoever reads after that gets what was written, or something newer.
func (c *Cache[T]) Store() kv.Typed[T] { return c.typed }

// Age is for how long the cache may have missed changes. While the watch is well and the cache is read it is at most about
// half of [WithMaxStaleness]; if nobody reads, at most about 36 s. While the watch is down, it grows.
func (c *Cache[T]) Age() time.Duration { return c.age() }

// Err is why the watch is down, nil while it is not, and as long as that is not known.
func (c *Cache[T]) Err() error {
	if c.isLive() {
		return nil
	}
	if err := c.why(); err != nil {
		return fail("watch", c.dir, err)
	}
	return nil
}

// Stats returns the counters. It sends nothing.
func (c *Cache[T]) Stats() Stats {
	c.mu.Lock()
	n := c.policy.Len()
	c.mu.Unlock()
	return Stats{
		Hits: c.hits.load(), Misses: c.misses.Load(), Fills: c.fills.Load(), Invalidations: c.changes.Load(),
		Evictions: c.evictions.Load(), Stale: c.stales.Load(), BadEntries: c.badOnes.Load(), Restarts: c.restarts.Load(), Entries: n,
	}
}

// Close ends the watch, and reads that are under way. It is idempotent. Afterwards reads return [ErrClosed]. The store goes on.
func (c *Cache[T]) Close() error {
	c.close()
	c.horizon.Store(math.MaxInt64)
	c.oldest.Store(math.MaxInt64)
	c.InvalidateAll()
	return nil
}

// tickTock is the clock: it says what is too old. While the watch is well that is what has outlived its TTL; while it is
// down, also what was not read within the bound.
func (c *Cache[T]) tickTock(now, asOf time.Duration) {
	keep := c.ttl
	if !c.fresh(now, asOf) {
		keep = min(keep, c.staleness-c.tick)
	}
	oldest := int64(now - keep)
	c.oldest.Store(oldest)
	if c.ages(now, asOf) {
		oldest = math.MaxInt64 // the next Get has etcd asked
	}
	c.horizon.Store(oldest)
}
