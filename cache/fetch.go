package cache

import (
	"context"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// readRequirement is what a caller requires of a read.
type readRequirement struct {
	allowCached bool // an item that another caller has cached meanwhile is acceptable
	minRevision int64
	afterCall   bool // only a read of etcd that started after the call is acceptable
}

// fetchCall is a read of a key in progress, shared by all callers that wait for it.
type fetchCall[T any] struct {
	done        chan struct{}
	cancel      context.CancelFunc
	waiters     int
	minRevision int64 // the latest revision of the key that was seen since the read started
	detached    bool  // no caller joins it, and its result is not kept

	item *item[T]
	err  error
}

// fetch reads key from etcd, or returns the cached item if w allows it. Concurrent callers for the
// same key share a read. If the read in progress may be older than what the caller has already seen
// or requires, the caller waits for the next one.
func (c *Cache[T]) fetch(ctx context.Context, key string, w readRequirement) (*item[T], error) {
	calledAt := c.now()
	for retried := false; ; retried = true {
		it, f, minRevision, started := c.joinFetch(key, w)
		if it != nil {
			return it, nil
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			c.leaveFetch(key, f)
			return nil, c.waitError(ctx)
		}
		afterCall := started || retried // the read started after the call
		switch {
		case w.afterCall && !afterCall:
		case f.err != nil:
			return nil, f.err
		case !afterCall && calledAt-f.item.asOf > c.staleness:
			// The read started too long before the call.
		case f.item.rev >= minRevision:
			return f.item, nil
		case afterCall && f.item.rev < w.minRevision:
			return nil, fmt.Errorf("%w: revision %d is ahead of the cluster's, which is %d", errs.Invalid, w.minRevision, f.item.rev)
		}
	}
}

// joinFetch returns the cached item, if w allows it, or else the read in progress, starting one if
// there is none. The result of the read must not be older than minRevision. started reports whether
// joinFetch has started the read.
func (c *Cache[T]) joinFetch(key string, w readRequirement) (it *item[T], f *fetchCall[T], minRevision int64, started bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if it := c.cached(key); w.allowCached && it != nil && it.rev >= w.minRevision {
		return it, nil, 0, false
	}
	f = c.fetchCalls[key]
	if f == nil {
		f, started = c.startFetch(key), true
	}
	f.waiters++
	return nil, f, max(w.minRevision, f.minRevision), started
}

// startFetch starts a read. The caller holds mu.
func (c *Cache[T]) startFetch(key string) *fetchCall[T] {
	key = strings.Clone(key) // the map keeps the key, which may be part of a large string
	f := &fetchCall[T]{done: make(chan struct{})}
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(c.ctx)
	if !c.spawn(func() { c.runFetch(ctx, key, f) }) {
		f.cancel()
		f.err = c.closedError()
		close(f.done)
		return f
	}
	c.fetchCalls[key] = f
	c.fills.Add(1)
	return f
}

// runFetch reads key, and caches the result unless a newer state is known.
func (c *Cache[T]) runFetch(ctx context.Context, key string, f *fetchCall[T]) {
	defer f.cancel()
	ctx, running := c.observeFill(ctx)
	it, err := c.readItem(ctx, key)
	if err == nil {
		running.End(nil, it.rev)
	} else {
		running.End(err, 0)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f.item, f.err = it, err
	if c.fetchCalls[key] == f {
		delete(c.fetchCalls, key)
	}
	if err == nil && !f.detached && !c.warming && it.rev >= f.minRevision {
		c.insert(it)
	}
	close(f.done)
}

// leaveFetch removes a caller from the waiters. If it was the last one, the read is canceled.
func (c *Cache[T]) leaveFetch(key string, f *fetchCall[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.waiters--
	if f.waiters == 0 {
		c.detach(key, f)
		f.cancel()
	}
}

// detach detaches a read: no caller joins it, and its result is not cached. The caller holds mu.
func (c *Cache[T]) detach(key string, f *fetchCall[T]) {
	f.detached = true
	if c.fetchCalls[key] == f {
		delete(c.fetchCalls, key)
	}
}

// readItem makes a linearizable read of key and returns its state with the revision: one RPC.
func (c *Cache[T]) readItem(ctx context.Context, key string) (*item[T], error) {
	startedAt := c.now()
	resp, err := c.store.Txn(ctx).Then(clientv3.OpGet(key)).Commit()
	switch {
	case c.closed():
		return nil, c.closedError()
	case err != nil:
		return nil, errs.Cause(err)
	}
	it := &item[T]{key: key, rev: resp.Header.GetRevision(), asOf: startedAt}
	kvs := resp.Responses[0].GetResponseRange().GetKvs()
	if len(kvs) == 0 {
		it.err = c.opError("get", key, kv.ErrNotFound)
		return it, nil
	}
	e := kvs[0]
	c.setValue(it, kv.Entry[T]{
		Key: key, CreateRevision: e.GetCreateRevision(), ModRevision: e.GetModRevision(), Version: e.GetVersion(), Lease: clientv3.LeaseID(e.GetLease()),
	}, e.GetValue())
	return it, nil
}

// setValue decodes a value into an item.
func (c *Cache[T]) setValue(it *item[T], e kv.Entry[T], value []byte) {
	var err error
	if e.Value, it.checksum, err = c.decode(e.Key, value, e.ModRevision); err != nil {
		c.badEntries.Add(1)
		c.log.WarnContext(c.ctx, "cache received a value that does not decode", "dir", c.dir, "key", errs.Short(e.Key), "revision", e.ModRevision, "error", err)
		it.err = c.opError("get", e.Key, err)
		return
	}
	it.entry = e
}

// insert caches an item, unless a newer one of its key is cached. The caller holds mu.
func (c *Cache[T]) insert(it *item[T]) {
	key := it.key
	old := c.items.get(key)
	switch {
	case old == nil:
		c.inserted.Add(1)
	case old.rev > it.rev:
		return
	}
	it.touched.Store(c.inserted.Load())
	c.items.set(it)
	if c.policy.Add(key, struct{}{}) {
		c.evictions.Add(1)
	}
}

// watchedAsOf returns the time as of which events of the watch are certainly current. It is not
// now, because the watch may be catching up.
func (c *Cache[T]) watchedAsOf() time.Duration { return time.Duration(c.asOf.Load()) }
