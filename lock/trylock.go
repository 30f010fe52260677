package lock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TryLock locks if nobody holds and nobody waits, and returns a [*LockedError] if somebody does. It does not wait, but
// for etcd's answer. One RPC, which changes nothing where the mutex is taken; none where this process holds it or waits
// for it. A name with other names below it costs one RPC more.
func (m *Mutex) TryLock(ctx context.Context) (*Held, error) {
	g, err := m.tryLock(ctx)
	if err != nil {
		return nil, fail("try lock", m.spec.name, err)
	}
	return &Held{Permit{g}}, nil
}

func (m *Mutex) tryLock(ctx context.Context) (*grip, error) {
	if m.bad != nil {
		return nil, m.bad
	}
	ctx, done, err := m.l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	began := time.Now()
	q := m.l.enter(m.spec.prefix)
	if holder, ok := q.line.tryJoin(); !ok {
		defer q.exit()
		return nil, q.taken(m.spec.name, holder)
	}
	p, err := q.take(ctx, m.spec, (*place).enqueueFirst)
	if err != nil {
		q.line.give(nil)
		q.exit()
		return nil, err
	}
	m.l.hook.notify(m.spec.name, began)
	return p.hold(&q.line, p.mod), nil
}

// taken says who is in the way where this process itself is in the line.
func (q *queue) taken(name string, holder *grip) error {
	if holder != nil {
		return &LockedError{Name: name, Owner: q.l.owner, Token: holder.token, Local: true}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.known && len(q.model.list) > 0 {
		return q.lockedBy(name, &q.model.list[0])
	}
	return &LockedError{Name: name}
}

// lockedBy says who stands first.
func (q *queue) lockedBy(name string, e *entry) error {
	if e.lease == 0 {
		return blockedBy(name, e)
	}
	return q.l.lockedError(name, e)
}

func (l *Locker) lockedError(name string, e *entry) error {
	return &LockedError{Name: name, Owner: e.owner(), Token: e.token(), Local: l.owns(e.key)}
}

// nameHolderTimeout bounds the read that finds out who holds what a call waited for in vain.
const nameHolderTimeout = 250 * time.Millisecond

// nameHolder adds to the error of a wait that has timed out who holds the lock: one RPC, none if a
// goroutine of this process holds it. If etcd does not answer at once, the error stays as it is.
func (q *queue) nameHolder(ctx context.Context, name string, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) || q.l.life.Err() != nil {
		return err
	}
	if holder := q.line.head(); holder != nil {
		return fmt.Errorf("%w: %w", err, plain(q.taken(name, holder)))
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), nameHolderTimeout)
	defer stop()
	resp, readErr := q.l.store.Txn(ctx).Then(oldest(q.prefix, firstFew)).Commit()
	if readErr != nil {
		return err
	}
	seen := lookAt(q.prefix, "", resp.Responses[0].GetResponseRange())
	if len(seen.entries) == 0 {
		return err
	}
	return fmt.Errorf("%w: %w", err, plain(q.l.lockedError(name, &seen.entries[0])))
}

// owns reports whether this locker has made a key.
func (l *Locker) owns(key string) bool { return strings.Contains(key, "-"+l.id+".") }

// blockedBy names a key that nobody will ever remove.
func blockedBy(name string, e *entry) error {
	return &BlockedError{Name: name, Key: e.key, Revision: e.create}
}

// enqueueFirst puts the key where nobody is in the queue. Keys of longer names, which the transaction comes upon, are left
// out when it is sent again.
func (p *place) enqueueFirst(ctx context.Context) error {
	prefix := p.q.prefix
	few := int64(firstFew)
	var deeper []string
	for {
		cmps := free(prefix, deeper)
		if len(cmps) > comparesMost {
			return p.enqueueAlone(ctx)
		}
		resp, err := p.q.l.definite(ctx, txn{
			cmps:   cmps,
			then:   []clientv3.Op{p.put(p.spec.value)},
			orElse: []clientv3.Op{oldest(prefix, few), clientv3.OpGet(p.key)},
		})
		p.doubt = p.doubt || resp.doubt
		if err != nil {
			return err
		}
		if resp.Succeeded {
			p.arrive(resp.revision(), look{complete: true}, false)
			return nil
		}
		if own := resp.get(1).GetKvs(); len(own) > 0 { // an attempt whose answer was lost has done it
			p.arrive(own[0].GetCreateRevision(), look{complete: true}, false)
			return nil
		}
		seen := lookAt(prefix, p.key, resp.get(0))
		if len(seen.entries) > 0 {
			return p.q.lockedBy(p.spec.name, &seen.entries[0])
		}
		deeper = seen.deeper
		if !seen.complete {
			few = 0 // all of them
		}
	}
}

// comparesMost is how many compares a transaction may need to find that the queue is empty; etcd takes 128.
const comparesMost = 100

// enqueueAlone is enqueueFirst where too many longer names lie in between: it takes a place, and fails unless that is
// the first. The key is removed then, as after any failure.
func (p *place) enqueueAlone(ctx context.Context) error {
	p.spec.few = math.MaxInt32
	if err := p.enqueueOnce(ctx); err != nil {
		return err
	}
	if !p.granted {
		return &LockedError{Name: p.spec.name}
	}
	return nil
}
