package lock

import (
	"cmp"
	"context"
	"errors"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// fresh reports whether the key's own mod revision is higher than all tokens that were given before: whether each
// put that came in between is known.
func (p *place) fresh() bool {
	if p.used || p.asked {
		return false
	}
	if p.granted {
		return true
	}
	p.q.mu.Lock()
	defer p.q.mu.Unlock()
	return p.q.known && p.q.base <= p.create && p.q.model.rewritten < p.mod
}

// rewrite puts the key again, where it stands, with the operations of more in the same transaction: the place is kept,
// and the mod revision rises. One RPC, which is repeated until the answer is definite. It is guarded by the mod
// revision that was there before, so that an earlier one that comes late has no effect.
func (p *place) rewrite(ctx context.Context, value string, more ...clientv3.Op) (answer, error) {
	ctx, stop := p.bind(ctx)
	defer stop()
	for {
		resp, err := p.q.l.definite(ctx, txn{
			cmps:   []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(p.key), "=", p.mod)},
			then:   append([]clientv3.Op{p.put(value)}, more...),
			orElse: []clientv3.Op{clientv3.OpGet(p.key)},
		})
		if err != nil {
			if errors.Is(err, errs.LeaseNotFound) {
				p.fail(errLeaseGone)
			}
			return resp, cmp.Or(p.trouble(), err)
		}
		if resp.Succeeded {
			p.mod = resp.revision()
			return resp, nil
		}
		kvs := resp.get(0).GetKvs()
		if len(kvs) == 0 || kvs[0].GetCreateRevision() != p.create {
			p.fail(errKeyGone)
			return resp, p.trouble()
		}
		if kvs[0].GetLease() != int64(p.s.ID()) {
			p.fail(errOverwritten)
			return resp, p.trouble()
		}
		p.mod = kvs[0].GetModRevision() // by a put of ours whose answer was lost, this one or one before: once more
	}
}
