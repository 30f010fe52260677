package kv

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// An operation slot is a hidden key that only this client writes. A write that carries one puts its operation id there
// in the same transaction, guarded by the slot's mod revision, so that of all the times it may be sent at most one can
// take effect; and a repeat reads in its Else branch whether one did.
type slot struct {
	key   string
	lease clientv3.LeaseID
	mod   int64 // its mod revision, 0 while it does not exist
	id    string
}

// burnt is what a repeat puts into the slot when the write's own condition has failed: the earlier attempts, which may
// still be on their way, then find the slot changed.
func (s *slot) burnt() string { return "-" + s.id }

// unchanged is the guard of the slot.
func (s *slot) unchanged() clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(s.key), "=", s.mod)
}

// mark is the put that takes the slot for the operation.
func (s *slot) mark() clientv3.Op {
	return clientv3.OpPut(s.key, s.id, clientv3.WithLease(s.lease))
}

// ask is the operation for the Else branch that finds out about the slot. In a later attempt it also makes sure that no
// other one takes effect afterwards: either the slot is as it was, and is burnt; or it is read.
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

// evaluate completes out, which is that of a refusal, by what the answer r to [slot.ask] says, and reports whether that is
// final. refusal is the error where no attempt has taken effect and none will. rev is the revision of the answer.
func (s *slot) evaluate(out outcome, r *pb.ResponseOp, again bool, rev int64, others retry.Others, refusal error) (_ outcome, final bool, err error) {
	kvs := r.GetResponseRange().GetKvs()
	if again {
		t := r.GetResponseTxn()
		if t.GetSucceeded() { // burnt just now
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
	case value == s.id: // also in a first attempt: something below may have sent it twice
		return outcome{rev: out.slotMod, applied: true, slotMod: out.slotMod}, true, nil
	case value == s.burnt():
		return out, true, refusal
	case !again && out.slotMod == s.mod:
		return out, others == retry.None, refusal // the others may still find it so
	case others == retry.None:
		return out, true, errSlotLost
	}
	// The slot is not as this client left it: its lease has ended, or somebody has tampered with it.
	return out, again && others == retry.Lost, fmt.Errorf("%w: %w", ErrUnknownOutcome, errSlotLost)
}

// slots is the pool of a client's slots: as many as there are such writes at a time. They live on a lease that is not
// renewed: when half of its time is over, new slots on a new lease take over, and the old ones vanish by themselves.
type slots struct {
	dir   string
	grant chan struct{} // full while a caller asks for a lease; the others wait for it

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

// pop returns a slot, nil when there is no lease for it.
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

// fresh reports whether an operation can start on the lease. The lock is held.
func (p *slots) fresh() bool { return p.lease != 0 && time.Now().Before(p.until) }

// renew starts over on a new lease, unless somebody just has.
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
		return fmt.Errorf("lease of WithOnce: %w", reason(err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lease, p.until, p.free, p.made = lease, asked.Add(ttl/2), nil, 0
	return nil
}

// put gives a slot back.
func (p *slots) put(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.lease == p.lease {
		p.free = append(p.free, s)
	}
}

// forget drops all slots of the lease that s is on: it is gone.
func (p *slots) forget(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.lease == p.lease {
		p.lease, p.free = 0, nil
	}
}
