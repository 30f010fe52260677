package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// mutation is one write in the form of a transaction. It compares the condition, the guards and the
// slot. Then it writes, or else it reads what is needed to find out which of them did not hold.
type mutation struct {
	op, key string // for error texts; key is absolute
	abs     []byte

	cond []clientv3.Cmp // on the key; none for an unconditional write
	then []clientv3.Op
	// baseRevision is the mod revision of the key that the condition requires. It is set only if the
	// condition can hold at most once, so that the write can only be the direct successor of that
	// revision. It is 0 if the condition may hold again.
	baseRevision int64
	value        []byte // the value to be written, nil for a delete
	// extraReads are additional reads that are made if a comparison fails.
	extraReads []clientv3.Op
	// mayHoldAgain reports whether a condition that did not hold may hold later although the key has
	// not changed. extra holds the responses to extraReads. If mayHoldAgain is nil, none can.
	mayHoldAgain func(extra []*pb.ResponseOp) bool

	guards   []Guard
	once     bool
	hasLease bool // whether a put has a lease
}

// outcome is the result of a mutation.
type outcome struct {
	rev int64
	// applied reports whether the write was applied. If not, cur is the key as it was read.
	applied bool
	cur     *mvccpb.KeyValue
	// resp is the response to the transaction that was applied. It is nil if only the slot shows
	// that it was applied.
	resp *clientv3.TxnResponse
	// extra holds the responses to extraReads, at rev.
	extra []*pb.ResponseOp
	// slotMod is the mod revision of the slot, if there is one.
	slotMod int64
}

// write sends a mutation and, while that is safe, repeats it until its outcome is known. A
// condition that does not hold is an outcome, not an error. A guard that does not hold is an error.
func (c *core) write(ctx context.Context, m *mutation) (outcome, error) {
	if !m.once {
		return c.commit(ctx, m, nil)
	}
	if err := retry.ContextError(ctx); err != nil {
		return outcome{}, opError(m.op, m.key, err)
	}
	ctx, cancel := c.withDefaultTimeout(ctx)
	defer cancel()
	out, err := c.commitWithSlot(ctx, m)
	if errs.NotApplied(err) && errors.Is(err, errSlotLost) {
		return c.commitWithSlot(ctx, m) // on a new lease
	}
	return out, err
}

// withDefaultTimeout applies the default timeout to a write of several requests as a whole.
func (c *core) withDefaultTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, c.engine.WriteTimeout, defaultTimeoutError(c.engine.WriteTimeout))
}

// defaultTimeoutError is the cause of a timeout that applies because the caller's context has no
// deadline.
type defaultTimeoutError time.Duration

func (e defaultTimeoutError) Error() string { return "default timeout " + time.Duration(e).String() }

// errSlotLost means that a slot was deleted or changed by someone else before the write, which was
// not applied.
var errSlotLost = errors.New("the operation slot was lost")

// additionalOps returns how many operations of the limit a write uses in addition to its own: for
// its condition, for the guards and the operations that read them, and for the slot.
func (o *options) additionalOps() int {
	n := 1 + len(o.guards)
	for _, g := range o.guards {
		n += len(g.compares)
	}
	if o.once {
		n += 2
	}
	return n
}

// attributeError returns an error that matches errSlotLost if err means that the lease of the slot
// does not exist. Otherwise it returns err, which may concern the lease of the put.
func (c *core) attributeError(ctx context.Context, m *mutation, s *slot, err error) error {
	if !errs.NotApplied(err) || !errors.Is(err, errs.LeaseNotFound) {
		return err
	}
	if m.hasLease {
		if r, ttlErr := c.cli.TimeToLive(ctx, s.lease); ttlErr != nil || r.TTL > 0 {
			return err
		}
	}
	return opError(m.op, m.key, fmt.Errorf("%w: %w", errSlotLost, errs.Cause(err)))
}

func (c *core) commitWithSlot(ctx context.Context, m *mutation) (outcome, error) {
	s, err := c.slots.acquire(ctx, c)
	if err != nil {
		return outcome{}, opError(m.op, m.key, err)
	}
	out, err := c.commit(ctx, m, s)
	err = c.attributeError(ctx, m, s, err)
	switch {
	case errors.Is(err, errSlotLost):
		c.slots.dropLease(s)
	case err == nil, errs.NotApplied(err):
		c.slots.release(s)
	}
	// Otherwise the content of the slot is unknown. The slot is not reused, and expires with its
	// lease.
	return out, err
}

// reply is the response to one attempt at a mutation, and its evaluation.
type reply struct {
	resp     *clientv3.TxnResponse
	repeated bool // whether it is not the first attempt
	out      outcome
	err      error
}

// commit sends the transaction, and repeats it while that is safe and can help.
func (c *core) commit(ctx context.Context, m *mutation, s *slot) (outcome, error) {
	var sentSlot *slot
	if s != nil {
		slotCopy := *s // a lost attempt may still be in flight when s is reused
		sentSlot = &slotCopy
	}
	call := retry.Call{Pkg: "kv", Op: m.op, Key: m.key, AtMostOnce: m.baseRevision > 0 || s != nil}
	send := func(ctx context.Context, repeated bool) (reply, error) {
		resp, err := c.kv.Txn(ctx).If(m.compares(sentSlot)...).Then(m.thenOps(sentSlot)...).Else(m.elseOps(sentSlot, repeated)...).Commit()
		return reply{resp: resp, repeated: repeated}, err
	}
	a, err := retry.DoUntil(ctx, c.engine, call, send, func(ctx context.Context, a *reply, others retry.Others) (final bool) {
		a.out, final, a.err = c.evaluate(ctx, m, sentSlot, *a, others)
		return final
	})
	if err != nil {
		return outcome{}, err
	}
	if s != nil {
		s.mod = a.out.slotMod
	}
	if errors.Is(a.err, ErrUnknownOutcome) {
		c.engine.CountUnknown()
	}
	if a.err != nil {
		return a.out, &errs.Error{Pkg: "kv", Op: m.op, Key: m.key, NotApplied: !errors.Is(a.err, ErrUnknownOutcome), Err: a.err}
	}
	return a.out, nil
}

func (m *mutation) compares(s *slot) []clientv3.Cmp {
	cmps := m.cond
	for _, g := range m.guards {
		cmps = append(slices.Clip(cmps), g.compares...)
	}
	if s != nil {
		cmps = append(slices.Clip(cmps), s.unchangedCmp())
	}
	return cmps
}

func (m *mutation) thenOps(s *slot) []clientv3.Op {
	if s == nil {
		return m.then
	}
	return append(slices.Clip(m.then), s.claim())
}

// elseOps returns the operations that read why the transaction was not applied: those for the key,
// for each guard, for the slot, and the extra ones, in this order.
func (m *mutation) elseOps(s *slot, repeated bool) []clientv3.Op {
	var ops []clientv3.Op
	if len(m.cond) > 0 {
		get := clientv3.OpGet("")
		get.WithKeyBytes(m.abs)
		ops = append(ops, get)
	}
	ops = append(ops, guardOps(m.guards)...)
	if s != nil {
		ops = append(ops, s.readOp(repeated))
	}
	return append(ops, m.extraReads...)
}

// evaluate returns the outcome of the mutation, based on the response to one attempt and the state
// of the other attempts, and reports whether it is final.
func (c *core) evaluate(ctx context.Context, m *mutation, s *slot, a reply, others retry.Others) (out outcome, final bool, err error) {
	rev := a.resp.Header.GetRevision()
	if a.resp.Succeeded {
		return outcome{rev: rev, applied: true, resp: a.resp, slotMod: rev}, true, nil
	}
	responses := a.resp.Responses
	out.rev, out.extra = rev, responses[len(responses)-len(m.extraReads):]
	if len(m.cond) > 0 {
		if kvs := responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
			out.cur = kvs[0]
		}
		responses = responses[1:]
	}
	guardErr := guardError(m.guards, responses)
	if s != nil {
		return s.evaluate(out, responses[len(m.guards)], a.repeated, rev, others, guardErr)
	}
	switch {
	case others == retry.OthersNotApplied:
		return out, true, guardErr
	case others == retry.OthersInFlight && out.cur.GetModRevision() == m.baseRevision:
		return out, false, nil // no other attempt has been applied yet
	}
	if err := c.resolve(ctx, m, out); err != nil {
		return out, others == retry.OthersUnknown, err
	}
	return out, true, guardErr
}

// maxResolveReads is the maximum number of changes that successor goes back, one read for each.
const maxResolveReads = 16

// resolve decides whether an earlier attempt at m may have been applied, or may still be. m has no
// slot, and its condition did not hold for the attempt that has returned out. If m was applied, its
// write is the direct successor of m.baseRevision. resolve returns nil if m was not applied and
// will not be. Otherwise the error matches ErrUnknownOutcome.
func (c *core) resolve(ctx context.Context, m *mutation, out outcome) error {
	cur := out.cur
	if m.baseRevision == 0 {
		return fmt.Errorf("%w: the condition may have come true more than once", ErrUnknownOutcome)
	}
	created := cur.GetCreateRevision()
	switch {
	case cur == nil || created > m.baseRevision:
		// The key was deleted: by the lost attempt, after it, or independently of it.
		return fmt.Errorf("%w: the key was deleted meanwhile", ErrUnknownOutcome)
	case cur.GetModRevision() == m.baseRevision && m.mayHoldAgain != nil && m.mayHoldAgain(out.extra):
		return fmt.Errorf("%w: a condition that did not hold may hold again", ErrUnknownOutcome)
	case m.value == nil, cur.GetModRevision() == m.baseRevision:
		// The key was not deleted, or did not change. A guard that has failed stays so (NewGuard).
		return nil
	}
	next, err := c.successor(ctx, m, cur)
	if err != nil {
		return err
	}
	if bytes.Equal(next.GetValue(), m.value) {
		return fmt.Errorf("%w: the key holds this value since revision %d, which may be another client's write", ErrUnknownOutcome, next.GetModRevision())
	}
	return nil
}

// successor returns the state of the key directly after m.baseRevision. It goes back from cur one
// change at a time.
func (c *core) successor(ctx context.Context, m *mutation, cur *mvccpb.KeyValue) (*mvccpb.KeyValue, error) {
	for range maxResolveReads {
		call := retry.Call{Pkg: "kv", Op: m.op, Key: m.key, Read: true}
		rev := cur.GetModRevision() - 1
		prev, err := retry.Do(ctx, c.engine, call, func(ctx context.Context, _ bool) (*clientv3.GetResponse, error) {
			return c.get(ctx, m.abs, clientv3.WithRev(rev))
		})
		switch {
		case errors.Is(err, ErrCompacted):
			return nil, fmt.Errorf("%w: the history of the key is compacted", ErrUnknownOutcome)
		case err != nil:
			return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, errs.Cause(err))
		case len(prev.Kvs) == 0:
			return nil, fmt.Errorf("%w: the key was deleted meanwhile", ErrUnknownOutcome)
		case prev.Kvs[0].GetModRevision() <= m.baseRevision:
			return cur, nil
		}
		cur = prev.Kvs[0]
	}
	return nil, fmt.Errorf("%w: the key has changed many times since", ErrUnknownOutcome)
}
