package kv

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// An operation slot is a hidden key that only this client writes. A write with a slot stores its
// operation ID there in the same transaction, and compares the mod revision of the slot. However
// often the transaction is sent, it is therefore applied at most once. Its Else branch reads
// whether an earlier attempt was applied.
type slot struct {
	key   string
	lease clientv3.LeaseID
	mod   int64 // the mod revision of the slot, 0 while it does not exist
	id    string
}

// burnt returns the value that a later attempt stores in the slot if the write's condition does not
// hold. Earlier attempts that may still be in flight are then refused because the slot has changed.
func (s *slot) burnt() string { return "-" + s.id }

// unchanged returns the comparison that the slot has not changed.
func (s *slot) unchanged() clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(s.key), "=", s.mod)
}

// mark returns the put that stores the operation ID in the slot.
func (s *slot) mark() clientv3.Op {
	return clientv3.OpPut(s.key, s.id, clientv3.WithLease(s.lease))
}

// ask returns the operation of the Else branch that reads the slot. In a later attempt it also
// ensures that no other attempt is applied afterwards: an unchanged slot gets the value of burnt,
// and a changed one is read.
func (s *slot) ask(again bool) clientv3.Op {
	if !again {
		return clientv3.OpGet(s.key)
	}
	return clientv3.OpTxn(
		[]clientv3.Cmp{s.unchanged()},
		[]clientv3.Op{clientv3.OpPut(s.key, s.burnt(), clientv3.WithLease(s.lease))},
		[]clientv3.Op{clientv3.OpGet(s.key)},
	)
}

// evaluate adds to out, the outcome of a refused attempt, what the response r to [slot.ask] shows,
// and reports whether the outcome is final. refusal is the error if no attempt was or will be
// applied. rev is the revision of the response.
func (s *slot) evaluate(out outcome, r *pb.ResponseOp, again bool, rev int64, others retry.Others, refusal error) (_ outcome, final bool, err error) {
	kvs := r.GetResponseRange().GetKvs()
	if again {
		t := r.GetResponseTxn()
		if t.GetSucceeded() { // set by this attempt
			out.slotMod = rev
			return out, true, refusal
		}
		kvs = t.GetResponses()[0].GetResponseRange().GetKvs()
	}
	var value string
	if len(kvs) > 0 {
		value, out.slotMod = string(kvs[0].GetValue()), kvs[0].GetModRevision()
	}
	switch {
	case value == s.id: // possible in a first attempt too: a layer below may have sent it twice
		return outcome{rev: out.slotMod, applied: true, slotMod: out.slotMod}, true, nil
	case value == s.burnt():
		return out, true, refusal
	case !again && out.slotMod == s.mod:
		return out, others == retry.OthersNotApplied, refusal // other attempts may find it unchanged and be applied
	case others == retry.OthersNotApplied:
		return out, true, errSlotLost
	}
	// The slot was changed by someone else, or its lease has expired.
	return out, again && others == retry.OthersUnknown, fmt.Errorf("%w: %w", ErrUnknownOutcome, errSlotLost)
}

// slots is the pool of slots of a store and of those derived from it. It holds as many as there
// were concurrent writes with WithOnce. Slots are attached to a lease that is not renewed. After
// half of the lease's TTL, new slots on a new lease replace them, and the old ones expire.
type slots struct {
	dir   string
	grant chan struct{} // full while a caller requests a lease; others wait for it

	mu    sync.Mutex
	lease clientv3.LeaseID
	until time.Time // no operation starts on the lease after this
	free  []*slot
	made  int
	ops   uint64
}

const slotTTL = 60 * time.Second

// take returns a slot for one operation.
func (p *slots) take(ctx context.Context, c *core) (*slot, error) {
	for {
		if s := p.pop(); s != nil {
			return s, nil
		}
		if err := c.await(ctx, p.grant, "the lease of WithOnce, which another call asks for"); err != nil {
			return nil, err
		}
		err := p.renew(ctx, c)
		<-p.grant
		if err != nil {
			return nil, err
		}
	}
}

// pop returns a slot, or nil if there is no usable lease.
func (p *slots) pop() *slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.fresh() {
		return nil
	}
	p.ops++
	var s *slot
	if n := len(p.free); n > 0 {
		s, p.free = p.free[n-1], p.free[:n-1]
	} else {
		s = &slot{key: fmt.Sprintf("%s%016x-%d", p.dir, int64(p.lease), p.made), lease: p.lease}
		p.made++
	}
	s.id = strconv.FormatUint(p.ops, 10)
	return s
}

// fresh reports whether an operation can start on the lease. p.mu must be held.
func (p *slots) fresh() bool { return p.lease != 0 && time.Now().Before(p.until) }

// renew requests a new lease, unless another caller has done so meanwhile.
func (p *slots) renew(ctx context.Context, c *core) error {
	p.mu.Lock()
	done := p.fresh()
	p.mu.Unlock()
	if done {
		return nil
	}
	asked := time.Now()
	lease, ttl, err := c.grant(ctx, "grant", "", slotTTL)
	if err != nil {
		return fmt.Errorf("lease of WithOnce: %w", errs.Cause(err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lease, p.until, p.free, p.made = lease, asked.Add(ttl/2), nil, 0
	return nil
}

// put returns a slot to the pool.
func (p *slots) put(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.lease == p.lease {
		p.free = append(p.free, s)
	}
}

// forget drops all slots of the lease of s, because the lease does not exist any more.
func (p *slots) forget(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.lease == p.lease {
		p.lease, p.free = 0, nil
	}
}
