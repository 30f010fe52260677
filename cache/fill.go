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

// want is what a read asks for.
type want struct {
	memory bool  // what is in memory will do, if somebody has filled it meanwhile
	rev    int64 // nothing older
	anew   bool  // a read of etcd that has begun since
}

// flight is one read of a key that is under way, for all who wait for it.
type flight[T any] struct {
	done    chan struct{}
	stop    context.CancelFunc
	waiters int
	floor   int64 // the revision of the latest change of the key that was heard of since the read began
	orphan  bool  // nobody new joins it, and nothing is kept of it

	item *item[T]
	err  error
}

// fetch reads key from etcd, together with all who want the same. A read that turns out to have begun before something
// that the caller may know of is not for that caller: the next one is.
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
		began := mine || since // after the call
		switch {
		case w.anew && !began:
		case f.err != nil:
			return nil, f.err
		case !began && came-f.item.asOf > c.staleness: // it took longer than the bound
		case f.item.rev >= need:
			return f.item, nil
		case began && f.item.rev < w.rev:
			return nil, fmt.Errorf("%w: revision %d is ahead of the cluster's, which is %d", errs.Invalid, w.rev, f.item.rev)
		}
	}
}

// join finds the read that is under way, or begins one. What it returns must not be older than need.
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

// depart begins a read. The caller holds mu.
func (c *Cache[T]) depart(key string) *flight[T] {
	key = strings.Clone(key) // which is kept, and may be a part of something large
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

// fly reads, and keeps what it has read unless something newer is known.
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

// leave gives up waiting. The last one ends the read.
func (c *Cache[T]) leave(key string, f *flight[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.waiters--
	if f.waiters == 0 {
		c.abandon(key, f)
		f.stop()
	}
}

// abandon lets nobody join a read any more, and nothing be kept of it. The caller holds mu.
func (c *Cache[T]) abandon(key string, f *flight[T]) {
	f.orphan = true
	if c.flights[key] == f {
		delete(c.flights, key)
	}
}

// read reads key, linearizably, and learns at which revision: one RPC.
func (c *Cache[T]) read(ctx context.Context, key string) (*item[T], error) {
	began := c.now()
	resp, err := c.store.Txn(ctx).Then(clientv3.OpGet(key)).Commit()
	switch {
	case c.closed():
		return nil, c.closedError()
	case err != nil:
		return nil, reason(err)
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

// keep puts an item in the place of what is known of its key, unless that is newer. The caller holds mu.
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

// asOfNow is the time as of which what the watch delivers is certainly true: it may be reading history.
func (c *Cache[T]) asOfNow() time.Duration { return time.Duration(c.asOf.Load()) }
