package lock

import (
	"context"
	"fmt"
	"sort"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// acquireOwn gets a hold on a place that is the caller's alone, not handed from one goroutine to the next.
func (l *Locker) acquireOwn(ctx context.Context, sp spec, bad error) (*grip, error) {
	return l.own(ctx, sp, bad, func(ctx context.Context, q *queue) (*place, error) {
		p, err := q.enqueue(ctx, sp)
		if err != nil {
			return nil, err
		}
		if err = p.await(ctx); err != nil {
			p.discard()
			return nil, q.nameHolder(ctx, sp.name, err)
		}
		return p, nil
	})
}

// tryOwn is acquireOwn that does not wait.
func (l *Locker) tryOwn(ctx context.Context, sp spec, bad error) (*grip, error) {
	return l.own(ctx, sp, bad, func(ctx context.Context, q *queue) (*place, error) {
		return q.take(ctx, sp, (*place).enqueueAdmitted)
	})
}

// own holds a place that get has got, and which is admitted.
func (l *Locker) own(ctx context.Context, sp spec, bad error, get func(context.Context, *queue) (*place, error)) (*grip, error) {
	if bad != nil {
		return nil, bad
	}
	ctx, done, err := l.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	began := time.Now()
	q := l.enter(sp.prefix)
	p, err := get(ctx, q)
	if err != nil {
		q.exit()
		return nil, err
	}
	l.hook.notify(sp.name, began)
	return p.hold(nil, p.create), nil
}

// enqueueAdmitted puts the key if it is admitted, and fails with who is in the way if it is not. The queue is taken for
// empty at first, and then looked at. The put depends on that no key was created since: those that were looked at can
// only have become fewer.
func (p *place) enqueueAdmitted(ctx context.Context) error {
	prefix := p.q.prefix
	var seen int64 // the revision at which the queue was looked at
	for {
		resp, err := p.q.l.definite(ctx, txn{
			cmps:   []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(prefix), "<", seen+1).WithRange(keyspace.End(prefix))},
			then:   []clientv3.Op{p.put(p.spec.value)},
			orElse: []clientv3.Op{clientv3.OpGet(prefix, clientv3.WithPrefix()), clientv3.OpGet(p.key)},
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
		var m model
		m.reset(lookAt(prefix, p.key, resp.get(0)).entries)
		if err := p.refusal(m.list); err != nil {
			return err
		}
		seen = resp.revision()
	}
}

// refusal says who is in the way of a place at the end of a queue, nil if nobody is: the first one behind whom it would not
// be admitted. A rule takes back no yes while those ahead become fewer.
func (p *place) refusal(all []entry) error {
	i := sort.Search(len(all), func(i int) bool {
		yes, _ := p.spec.rule(all[:i+1], entry{})
		return !yes
	})
	if i == len(all) {
		return nil
	}
	if _, blocker := p.spec.rule(all[:i+1], entry{}); blocker != nil {
		return blockedBy(p.spec.name, blocker)
	}
	return p.q.l.lockedError(p.spec.name, &all[i])
}

// doShared is work under a permit.
func doShared(ctx context.Context, l *Locker, name string, f SharedFunc, acquire func(context.Context) (*Permit, error)) error {
	if f == nil {
		return fail("do", name, fmt.Errorf("%w: no function", errs.Invalid))
	}
	p, err := acquire(ctx)
	if err != nil {
		return err
	}
	return p.work(ctx, l, func(ctx context.Context) error { return f(ctx, p) })
}
