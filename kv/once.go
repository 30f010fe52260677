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

// tombstone returns the value that a later attempt stores in the slot if the write's condition does
// not hold. Earlier attempts that may still be in flight are then refused because the slot has
// changed.
func (s *slot) tombstone() string { return "-" + s.id }

// unchangedCmp returns the comparison that the slot has not changed.
func (s *slot) unchangedCmp() clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(s.key), "=", s.mod)
}

// claim returns the put that stores the operation ID in the slot.
func (s *slot) claim() clientv3.Op {
	return clientv3.OpPut(s.key, s.id, clientv3.WithLease(s.lease))
}

// readOp returns the operation of the Else branch that reads the slot. In a later attempt it also
// ensures that no other attempt is applied afterwards: it writes the tombstone to an unchanged
// slot, and reads a changed one.
func (s *slot) readOp(repeated bool) clientv3.Op {
	if !repeated {
		return clientv3.OpGet(s.key)
	}
	return clientv3.OpTxn(
		[]clientv3.Cmp{s.unchangedCmp()},
		[]clientv3.Op{clientv3.OpPut(s.key, s.tombstone(), clientv3.WithLease(s.lease))},
		[]clientv3.Op{clientv3.OpGet(s.key)},
	)
}

// evaluate adds to out, the outcome of a refused attempt, what the response r to [slot.readOp]
// shows, and reports whether the outcome is final. refusal is the error if no attempt was or will
// be applied. rev is the revision of the response.
func (s *slot) evaluate(out outcome, r *pb.ResponseOp, repeated bool, rev int64, others retry.Others, refusal error) (_ outcome, final bool, err error) {
	kvs := r.GetResponseRange().GetKvs()
	if repeated {
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
	case value == s.tombstone():
		return out, true, refusal
	case !repeated && out.slotMod == s.mod:
		// Other attempts may find it unchanged and be applied.
		return out, others == retry.OthersNotApplied, refusal
	case others == retry.OthersNotApplied:
		return out, true, errSlotLost
	}
	// The slot was changed by someone else, or its lease has expired.
	return out, repeated && others == retry.OthersUnknown, fmt.Errorf("%w: %w", ErrUnknownOutcome, errSlotLost)
}

// slotPool is the pool of slots of a store and of those derived from it. A write takes a free slot
// or, if there is none, a new one, and returns it unless its content is unknown. Slots are attached
// to a lease that is not renewed. After half of the lease's TTL, new slots on a new lease replace
// them, and the old ones expire.
type slotPool struct {
	dir      string
	granting chan struct{} // full while a caller requests a lease; others wait for it

	mu          sync.Mutex
	lease       clientv3.LeaseID
	usableUntil time.Time // no operation starts on the lease after this
	free        []*slot
	created     int
	lastOpID    uint64
}

const slotTTL = 60 * time.Second

// acquire returns a slot for one operation.
func (p *slotPool) acquire(ctx context.Context, c *core) (*slot, error) {
	for {
		if s := p.tryAcquire(); s != nil {
			return s, nil
		}
		if err := c.acquireGrant(ctx, p.granting, "the lease of WithOnce, which another call requests"); err != nil {
			return nil, err
		}
		err := p.replaceLease(ctx, c)
		<-p.granting
		if err != nil {
			return nil, err
		}
	}
}

// tryAcquire returns a slot, or nil if there is no usable lease.
func (p *slotPool) tryAcquire() *slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.hasUsableLease() {
		return nil
	}
	p.lastOpID++
	var s *slot
	if n := len(p.free); n > 0 {
		s, p.free = p.free[n-1], p.free[:n-1]
	} else {
		s = &slot{key: fmt.Sprintf("%s%016x-%d", p.dir, int64(p.lease), p.created), lease: p.lease}
		p.created++
	}
	s.id = strconv.FormatUint(p.lastOpID, 10)
	return s
}

// hasUsableLease reports whether an operation can start on the lease. p.mu must be held.
func (p *slotPool) hasUsableLease() bool { return p.lease != 0 && time.Now().Before(p.usableUntil) }

// replaceLease requests a new lease, unless another caller has done so meanwhile.
func (p *slotPool) replaceLease(ctx context.Context, c *core) error {
	p.mu.Lock()
	done := p.hasUsableLease()
	p.mu.Unlock()
	if done {
		return nil
	}
	sentAt := time.Now()
	lease, ttl, err := c.grant(ctx, "grant", "", slotTTL)
	if err != nil {
		return fmt.Errorf("lease of WithOnce: %w", errs.Cause(err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lease, p.usableUntil, p.free, p.created = lease, sentAt.Add(ttl/2), nil, 0
	return nil
}

// release returns a slot to the pool.
func (p *slotPool) release(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.lease == p.lease {
		p.free = append(p.free, s)
	}
}

// dropLease drops all slots of the lease of s, because the lease does not exist any more.
func (p *slotPool) dropLease(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.lease == p.lease {
		p.lease, p.free = 0, nil
	}
}
