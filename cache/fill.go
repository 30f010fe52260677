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

// want is what a caller requires of a read.
type want struct {
	memory bool  // an item in memory is acceptable, if another caller has filled it
	rev    int64 // minimum revision
	anew   bool  // a read of etcd that started after the call
}

// flight is a read of a key in progress, shared by all callers that wait for it.
type flight[T any] struct {
	done    chan struct{}
	stop    context.CancelFunc
	waiters int
	floor   int64 // the latest revision of the key that was seen since the read started
	orphan  bool  // no caller joins it, and its result is not kept

	item *item[T]
	err  error
}

// fetch reads key from etcd, together with other callers for the same key. If the read started
// before something that the caller may know of, the caller waits for the next read instead.
func (c *Cache[T]) fetch(ctx context.Context, key string, w want) (*item[T], error) {
	came := c.now()
	for since := false; ; since = true {
		it, f, need, mine := c.join(key, w)
		if it != nil {
			return it, nil
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			c.leave(key, f)
			return nil, c.gaveUp(ctx)
		}
		began := mine || since // the read started after the call
		switch {
		case w.anew && !began:
		case f.err != nil:
			return nil, f.err
		case !began && came-f.item.asOf > c.staleness: // the read started too long before the call
		case f.item.rev >= need:
			return f.item, nil
		case began && f.item.rev < w.rev:
			return nil, fmt.Errorf("%w: revision %d is ahead of the cluster's, which is %d", errs.Invalid, w.rev, f.item.rev)
		}
	}
}

// join returns the item in memory, if w allows it, or else the read in progress, starting one if
// there is none. The result of the read must not be older than need. mine reports whether join has
// started it.
func (c *Cache[T]) join(key string, w want) (it *item[T], f *flight[T], need int64, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if it := c.peek(key); w.memory && it != nil && it.rev >= w.rev {
		return it, nil, 0, false
	}
	f = c.flights[key]
	if f == nil {
		f, mine = c.depart(key), true
	}
	f.waiters++
	return nil, f, max(w.rev, f.floor), mine
}

// depart starts a read. The caller holds mu.
func (c *Cache[T]) depart(key string) *flight[T] {
	key = strings.Clone(key) // the map keeps the key, which may be part of a large string
	f := &flight[T]{done: make(chan struct{})}
	var ctx context.Context
	ctx, f.stop = context.WithCancel(c.ctx)
	if !c.spawn(func() { c.fly(ctx, key, f) }) {
		f.stop()
		f.err = c.closedError()
		close(f.done)
		return f
	}
	c.flights[key] = f
	c.fills.Add(1)
	return f
}

// fly reads key, and caches the result unless a newer state is known.
func (c *Cache[T]) fly(ctx context.Context, key string, f *flight[T]) {
	defer f.stop()
	it, err := c.read(ctx, key)
	c.mu.Lock()
	defer c.mu.Unlock()
	f.item, f.err = it, err
	if c.flights[key] == f {
		delete(c.flights, key)
	}
	if err == nil && !f.orphan && !c.limbo && it.rev >= f.floor {
		c.keep(it)
	}
	close(f.done)
}

// leave removes a caller from the waiters. If it was the last one, the read is canceled.
func (c *Cache[T]) leave(key string, f *flight[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.waiters--
	if f.waiters == 0 {
		c.abandon(key, f)
		f.stop()
	}
}

// abandon detaches a read: no caller joins it, and its result is not cached. The caller holds mu.
func (c *Cache[T]) abandon(key string, f *flight[T]) {
	f.orphan = true
	if c.flights[key] == f {
		delete(c.flights, key)
	}
}

// read makes a linearizable read of key and returns its state with the revision: one RPC.
func (c *Cache[T]) read(ctx context.Context, key string) (*item[T], error) {
	began := c.now()
	resp, err := c.store.Txn(ctx).Then(clientv3.OpGet(key)).Commit()
	switch {
	case c.closed():
		return nil, c.closedError()
	case err != nil:
		return nil, errs.Cause(err)
	}
	it := &item[T]{key: key, rev: resp.Header.GetRevision(), asOf: began}
	kvs := resp.Responses[0].GetResponseRange().GetKvs()
	if len(kvs) == 0 {
		it.err = c.fail("get", key, kv.ErrNotFound)
		return it, nil
	}
	e := kvs[0]
	c.fillIn(it, kv.Entry[T]{
		Key: key, CreateRevision: e.GetCreateRevision(), ModRevision: e.GetModRevision(), Version: e.GetVersion(), Lease: clientv3.LeaseID(e.GetLease()),
	}, e.GetValue())
	return it, nil
}

// fillIn decodes a value into an item.
func (c *Cache[T]) fillIn(it *item[T], e kv.Entry[T], value []byte) {
	var err error
	if e.Value, it.sum, err = c.decode(e.Key, value, e.ModRevision); err != nil {
		c.badOnes.Add(1)
		c.log.WarnContext(c.ctx, "cache was given a value that does not decode", "dir", c.dir, "key", errs.Short(e.Key), "revision", e.ModRevision, "error", err)
		it.err = c.fail("get", e.Key, err)
		return
	}
	it.entry = e
}

// keep stores an item, unless a newer one of its key is stored. The caller holds mu.
func (c *Cache[T]) keep(it *item[T]) {
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

// asOfNow returns the time as of which events of the watch are certainly current. It is not now,
// because the watch may be catching up.
func (c *Cache[T]) asOfNow() time.Duration { return time.Duration(c.asOf.Load()) }
