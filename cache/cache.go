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

// Cache holds the most recently read keys below a dir in memory, decoded. It holds a bounded number
// of keys, including absent ones. A watch keeps them current. It is safe for concurrent use. The
// values it returns are shared and must not be modified.
type Cache[T any] struct {
	*watchedDir
	decoder[T]

	ttl        time.Duration
	lookupHook func(ctx context.Context, dir string, hit bool) // nil if nobody observes
	typed      kv.Typed[T]

	noticeHits bool                             // notice is called for each hit
	items      concurrentMap[item[T], *item[T]] // read without a lock
	// Both are in nanoseconds since watchedDir.startedAt.
	horizon       atomic.Int64 // Get takes the slow path for items as of an earlier time
	minAsOf       atomic.Int64 // items as of an earlier time are too old
	inserted      atomic.Uint64
	touchInterval uint64 // insertions after which a hit updates the policy again

	hits                                                            counter
	misses, fills, invalidations, evictions, staleReads, badEntries atomic.Uint64

	// mu guards changes of items. policy contains the same keys and selects the one to evict.
	mu         sync.Mutex
	policy     *simplelru.LRU[string, struct{}]
	fetchCalls map[string]*fetchCall[T]
	warming    bool // a watch is starting: changes may be missed, so what is read is not kept
}

// item is the cached state of a key. It is immutable, except for touched.
type item[T any] struct {
	key      string
	entry    kv.Entry[T]   // empty if err is not nil
	err      error         // kv.ErrNotFound or kv.ErrDecode, as a read returns it
	rev      int64         // the entry was the current one at this revision
	asOf     time.Duration // since watchedDir.startedAt: the entry was current then or later
	checksum uint64

	touched atomic.Uint64 // Cache.inserted at the last update of the policy
}

// mapKey returns the key.
func (it *item[T]) mapKey() string { return it.key }

// maxCacheLoad is the load of the map of items. It is low, because the number of items is bounded.
const maxCacheLoad = 50

// touchIntervalDivisor divides the capacity: a hit updates the policy only after an eighth of the
// capacity was inserted since the last update for the item. So hits of a warm cache take no lock,
// and items in use stay near the recent end.
const touchIntervalDivisor = 8

// Open starts watching dir and returns once the watch is live. It does not read any keys yet. ctx
// bounds this call only; without a deadline, Open gives up after 10 s. The error is as for
// [OpenReplica]. Open uses one server-side watch, which all watches of dir through the client's
// watcher share. If it takes longer than half a second, it makes one small read to find the cause.
func Open[T any](ctx context.Context, c Client, dir string, codec kv.Codec[T], o ...Option) (*Cache[T], error) {
	s, err := newOptions(c, dir, codec, o, false)
	if err != nil {
		return nil, opError("open", dir, err)
	}
	d := newWatchedDir("cache", c, dir, &s, min(s.ttl, s.maxStaleness))
	lookupHook := s.scope.CacheLookup()
	out := &Cache[T]{
		watchedDir: d, decoder: newDecoder(d.prefix, codec, s.readOnlyCheck),
		ttl: s.ttl, lookupHook: lookupHook, noticeHits: lookupHook != nil || s.readOnlyCheck,
		touchInterval: uint64(s.maxEntries / touchIntervalDivisor), //nolint:gosec // is positive
		fetchCalls:    make(map[string]*fetchCall[T]),
	}
	out.items.init(maxCacheLoad)
	out.policy, err = simplelru.NewLRU(s.maxEntries, func(key string, _ struct{}) { out.items.remove(key) })
	if err != nil {
		return nil, opError("open", dir, fmt.Errorf("%w: %w", errs.Invalid, err))
	}
	out.handle, out.beforeWatch, out.onLive, out.onTick = out.onBatch, out.startWarming, out.finishWarming, out.updateHorizon
	out.typed = kv.NewTyped(c.KV(), dir, codec).OnWrite(out.onWrite)
	if err := out.start(ctx, func() uint64 { return 0 }); err != nil {
		return nil, opError("open", dir, err)
	}
	out.track(out.Stats)
	return out, nil
}

// Get returns the entry of key, from memory if possible. It returns kv.ErrNotFound if the key is
// absent, which is cached too, kv.ErrDecode if its value does not decode, and [ErrClosed] after
// Close. The entry lags behind etcd by as much as the watch does, usually milliseconds. It is never
// older than [WithMaxStaleness], and never older than the last write of this process through Store.
//
// A hit costs no RPC and no allocation, and does not check ctx, with one exception: if there was no
// read for longer than the bound, the next one waits until etcd has confirmed that no change is
// missing, which takes one round trip and at most a second. A miss costs one RPC, which is shared
// by all concurrent callers for the key. The RPC is bounded by the read timeout of the client, 5 s
// by default, and is canceled if no caller waits for it any more.
func (c *Cache[T]) Get(ctx context.Context, key string) (kv.Entry[T], error) {
	if it := c.items.get(key); it != nil && int64(it.asOf) >= c.horizon.Load() {
		if c.inserted.Load()-it.touched.Load() > c.touchInterval || c.noticeHits {
			c.notice(ctx, key, it)
		}
		c.hits.add()
		return it.entry, it.err
	}
	if c.needsRefresh(c.now(), time.Duration(c.asOf.Load())) && !c.closed() {
		c.ensureFresh(ctx)
		if it := c.cached(key); it != nil {
			c.recordHit(ctx, key, it)
			return it.entry, it.err
		}
		if ctx.Err() != nil {
			return kv.Entry[T]{}, c.opError("get", key, c.waitError(ctx))
		}
	}
	return c.miss(ctx, "get", key, readRequirement{allowCached: true})
}

// cached returns the item of key from memory, or nil if there is none or it is too old.
func (c *Cache[T]) cached(key string) *item[T] {
	it := c.items.get(key)
	if it == nil || int64(it.asOf) < c.minAsOf.Load() {
		return nil
	}
	return it
}

// recordHit records a hit by a method other than Get's fast path.
func (c *Cache[T]) recordHit(ctx context.Context, key string, it *item[T]) {
	c.notice(ctx, key, it)
	c.hits.add()
}

// notice handles the rarer effects of a hit: it updates the policy, calls the lookup hook and
// checks the value.
func (c *Cache[T]) notice(ctx context.Context, key string, it *item[T]) {
	if c.inserted.Load()-it.touched.Load() > c.touchInterval {
		c.mu.Lock()
		c.policy.Get(key)
		it.touched.Store(c.inserted.Load())
		c.mu.Unlock()
	}
	if c.lookupHook != nil {
		c.lookupHook(ctx, c.dir, true)
	}
	if c.readOnlyCheck && it.err == nil {
		c.verify(key, it.entry.Value, it.checksum)
	}
}

// miss reads key from etcd.
func (c *Cache[T]) miss(ctx context.Context, op, key string, w readRequirement) (kv.Entry[T], error) {
	if c.lookupHook != nil {
		c.lookupHook(ctx, c.dir, false)
	}
	c.misses.Add(1)
	err := keyspace.Key(key, 0)
	switch {
	case err != nil:
	case c.closed():
		err = c.closedError()
	default:
		err = retry.ContextError(ctx)
	}
	if err != nil {
		return kv.Entry[T]{}, c.opError(op, key, err)
	}
	if !c.isFresh(c.now(), time.Duration(c.asOf.Load())) {
		c.staleReads.Add(1)
	}
	it, err := c.fetch(ctx, key, w)
	if err != nil {
		return kv.Entry[T]{}, c.opError(op, key, err)
	}
	if c.readOnlyCheck && it.err == nil {
		c.verify(key, it.entry.Value, it.checksum)
	}
	return it.entry, it.err
}

// GetLinearizable is like Get, but reflects every write acknowledged to any client before the call.
// It costs one small RPC, shared by all concurrent callers for any key, and on a quiet dir a
// message on the watch's stream. If the key is not in memory or the watch is down, the key is read
// from etcd instead.
func (c *Cache[T]) GetLinearizable(ctx context.Context, key string) (kv.Entry[T], error) {
	const op = "get linearizable"
	if c.cached(key) == nil || !c.isLive() {
		return c.miss(ctx, op, key, readRequirement{afterCall: true})
	}
	ctx, stop := withReadTimeout(ctx)
	defer stop()
	rev, reached, err := c.readIndex.wait(ctx)
	if err != nil {
		return kv.Entry[T]{}, c.opError(op, key, err)
	}
	if it := c.cached(key); it != nil && (reached || it.rev >= rev) {
		c.recordHit(ctx, key, it)
		return it.entry, it.err
	}
	return c.miss(ctx, op, key, readRequirement{minRevision: rev})
}

// GetAtLeast is like Get, but returns an entry that is current at minRev or later. Given the
// revision of a write by any process, it reflects that write. It is a hit if the watch has reached
// minRev, and otherwise costs one RPC. It returns [ErrInvalid] if etcd has not reached minRev.
func (c *Cache[T]) GetAtLeast(ctx context.Context, key string, minRev int64) (kv.Entry[T], error) {
	it := c.cached(key)
	if it != nil && it.rev < minRev {
		if sub, _ := c.watch.Current(); sub.Status().Revision < minRev {
			it = nil
		} else {
			it = c.cached(key) // the watch may have replaced it
		}
	}
	if it != nil {
		c.recordHit(ctx, key, it)
		return it.entry, it.err
	}
	return c.miss(ctx, "get at least", key, readRequirement{minRevision: minRev, allowCached: true})
}

// Store returns the typed store of the dir. Before a write through it returns, the key is removed
// from the cache, and reads of the key that started before the write are not cached. A later Get
// returns what was written, or something newer.
func (c *Cache[T]) Store() kv.Typed[T] { return c.typed }

// Age bounds how stale the cache may be: it may have missed changes of the last Age. While the
// watch is live and the cache is read, it is at most about half of [WithMaxStaleness]; without
// reads, at most about 36 s. While the watch is down, it grows.
func (c *Cache[T]) Age() time.Duration { return c.age() }

// Err returns why the watch is down. It returns nil if the watch is live, or if the cause is not
// known yet.
func (c *Cache[T]) Err() error {
	if c.isLive() {
		return nil
	}
	if err := c.cause(); err != nil {
		return opError("watch", c.dir, err)
	}
	return nil
}

// Stats returns the current counters. It sends nothing.
func (c *Cache[T]) Stats() Stats {
	c.mu.Lock()
	n := c.policy.Len()
	c.mu.Unlock()
	return Stats{
		Hits: c.hits.load(), Misses: c.misses.Load(), Fills: c.fills.Load(), Invalidations: c.invalidations.Load(),
		Evictions: c.evictions.Load(), Stale: c.staleReads.Load(), BadEntries: c.badEntries.Load(), Restarts: c.watch.Restarts(), Entries: n,
	}
}

// Close ends the watch and all reads in progress. It is idempotent. Afterwards reads return
// [ErrClosed]. The store of Store remains usable.
func (c *Cache[T]) Close() error {
	c.close()
	c.horizon.Store(math.MaxInt64)
	c.minAsOf.Store(math.MaxInt64)
	c.InvalidateAll()
	return nil
}

// updateHorizon updates the times before which items are too old. While the watch is fresh that is
// the TTL, and otherwise also the bound of staleness.
func (c *Cache[T]) updateHorizon(now, asOf time.Duration) {
	keep := c.ttl
	if !c.isFresh(now, asOf) {
		keep = min(keep, c.staleness-c.tick)
	}
	oldest := int64(now - keep)
	c.minAsOf.Store(oldest)
	if c.needsRefresh(now, asOf) {
		oldest = math.MaxInt64 // the next Get takes the slow path, which checks the watch
	}
	c.horizon.Store(oldest)
}
