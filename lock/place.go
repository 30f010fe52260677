package lock

import (
	"context"
	"errors"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// spec is what kind of place is taken in a queue.
type spec struct {
	name   string // for messages
	prefix string // of the queue, ending in "/"
	value  string // of the key
	mark   string // at the end of the key, where a rule has to tell kinds of places apart
	rule   rule
	few    int64 // how many of those ahead an enqueueing looks at; beyond that the queue is watched
}

// place is a key of ours in a queue: enqueued, waiting, admitted, held, and in the end removed. It belongs to one
// goroutine at a time; what the queue's watch tells it is under the queue's lock.
//
//	          enqueue                  await                  hold            leave
//	(nonce) ----------> in the queue ----------> admitted ----------> held ----------> removed
//	   |                     |                      |                  |
//	   | failed              | ctx                  | ctx              | session ended, key gone
//	   v                     v                      v                  v
//	 swept <---------------------- (or handed on in the line) --------- lost
//
// It is registered with the locker before the first request that could create its key, and until the key is known to
// be gone: what carries the locker's ID and is not registered is garbage.
type place struct {
	q     *queue
	s     tenancy
	key   string
	spec  spec
	doubt bool // a request that creates the key may be applied later than it is removed

	create  int64 // revision of the key, 0 before it is there
	mod     int64 // of our last known put
	granted bool  // by the enqueueing itself
	asked   bool  // by asking, or by an answer that came late: nobody has told of all that came before
	used    bool  // was held: the next hold needs a token of its own

	// Of the queue's lock.
	admitted bool
	blocker  *entry
	gone     error // why the key is not ours any more
	bell     chan struct{}
	owner    *grip // who holds by it
}

// newPlace registers a place with a key that nobody has. It waits for a session where there is none.
func (q *queue) newPlace(ctx context.Context, sp spec) (*place, error) {
	s, err := q.l.session(ctx)
	if err != nil {
		return nil, err
	}
	nonce := q.l.id + "." + strconv.FormatUint(q.l.nonces.Add(1), 36) + sp.mark
	p := &place{q: q, s: s, key: q.prefix + hex(s.ID()) + "-" + nonce, spec: sp, bell: make(chan struct{}, 1)}
	q.mu.Lock()
	q.places[p.key] = p
	q.mu.Unlock()
	q.l.mu.Lock()
	q.l.places[p.key] = p
	q.l.mu.Unlock()
	return p, nil
}

// put is the operation that creates the key, or changes its value.
func (p *place) put(value string) clientv3.Op {
	return clientv3.OpPut(p.key, value, clientv3.WithLease(p.s.ID()))
}

// enqueue takes a place at the end of the queue, and looks at who is ahead: one RPC, which is repeated until the answer
// is definite.
func (q *queue) enqueue(ctx context.Context, sp spec) (*place, error) {
	return q.take(ctx, sp, (*place).enqueueOnce)
}

// take takes a place by a request that creates its key. On an error nothing stays behind. A session that etcd no longer
// knows is waited out, and another one taken.
func (q *queue) take(ctx context.Context, sp spec, request func(*place, context.Context) error) (*place, error) {
	pauses := retry.Policy{BaseDelay: pauseBetween, MaxDelay: pauseMost}.Backoff()
	pauses.Reset()
	for {
		if err := retry.ContextError(ctx); err != nil {
			return nil, err
		}
		p, err := q.newPlace(ctx, sp)
		if err != nil {
			// The opening of a session has a timeout of its own, which may be shorter than that of ctx.
			if _, ok := ctx.Deadline(); ok && errors.Is(err, errs.Unavailable) && sleep(ctx, pauses.NextBackOff()) {
				continue
			}
			return nil, err
		}
		err = q.l.detached(ctx, func(ctx context.Context) error { return request(p, ctx) }, p.discard)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, errs.LeaseNotFound) {
			return nil, &settled{err}
		}
		if err := p.awaitLoss(ctx); err != nil {
			return nil, err
		}
	}
}

// awaitLoss waits until a session knows what etcd has said: that its lease is gone.
func (p *place) awaitLoss(ctx context.Context) error {
	p.q.l.callers.Go(func() { _ = p.s.Verify(ctx) }) // if that fails, the next renewal tells
	select {
	case <-p.s.Context().Done():
		return nil
	case <-ctx.Done():
		return retry.ContextError(ctx)
	}
}

// enqueueOnce puts the key at the end of the queue.
func (p *place) enqueueOnce(ctx context.Context) error {
	look := oldest(p.q.prefix, max(p.spec.few, firstFew))
	resp, err := p.q.l.definite(ctx, txn{
		cmps:   []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(p.key), "=", 0)},
		then:   []clientv3.Op{look, p.put(p.spec.value)}, // the look comes first: it does not see the key
		orElse: []clientv3.Op{look, clientv3.OpGet(p.key)},
	})
	p.doubt = resp.doubt
	if err != nil {
		return err
	}
	create := resp.revision()
	if !resp.Succeeded { // an attempt whose answer was lost has done it
		own := resp.get(1).GetKvs()[0]
		create = own.GetCreateRevision()
	}
	seen := lookAt(p.q.prefix, p.key, resp.get(0))
	p.arrive(create, seen, !resp.Succeeded)
	return nil
}

// arrive notes where the key stands, and whether that is admitted already.
func (p *place) arrive(create int64, seen look, late bool) {
	p.q.mu.Lock()
	defer p.q.mu.Unlock()
	p.create, p.mod = create, create
	ahead := seen.entries
	if late {
		p.asked = true // those who were ahead may have taken turns, and gone, before this answer
		for i, e := range ahead {
			if e.create > create {
				ahead = ahead[:i]
				break
			}
		}
	}
	yes, blocker := p.spec.rule(ahead, entry{key: p.key, create: create, mod: create, lease: p.s.ID(), value: p.spec.value})
	switch {
	case yes && (seen.complete || len(ahead) < len(seen.entries)):
		p.granted, p.admitted = true, true
	case blocker != nil && len(ahead) > 0:
		copied := *blocker
		p.blocker = &copied
	}
	p.settle()
}
