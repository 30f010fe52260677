package kv

import (
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
// slot. Then it writes, or else it reads why one of them did not hold.
type mutation struct {
	op, key string // for error texts; key is absolute
	abs     []byte

	cond []clientv3.Cmp // on the key; none for an unconditional write
	then []clientv3.Op
	// succeeds is the mod revision that the condition requires. It is set only if the condition can
	// hold at most once, so that the write can only be the direct successor of that revision. It is
	// 0 if the condition may hold again.
	succeeds int64
	value    []byte // the value to be written, nil for a delete
	// mayHoldAgain reports, given the responses to extra, whether a condition that did not hold may
	// hold later although the key has not changed. nil means that it cannot.
	mayHoldAgain func(extra []*pb.ResponseOp) bool
	extra        []clientv3.Op // additional reads if a comparison fails

	guards []Guard
	once   bool
	leased bool // whether a put has a lease
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
	// extra holds the responses to the additional reads at rev.
	extra []*pb.ResponseOp
	// slotMod is the mod revision of the slot, if there is one.
	slotMod int64
}

// write sends a mutation until its outcome is known. A condition that does not hold is an outcome,
// not an error. A guard that does not hold is an error.
func (c *core) write(ctx context.Context, m *mutation) (outcome, error) {
	if !m.once {
		return c.commit(ctx, m, nil)
	}
	if ctx == nil {
		return outcome{}, fail(m.op, m.key, fmt.Errorf("%w: nil context", errs.Invalid))
	}
	if err := retry.ContextError(ctx); err != nil {
		return outcome{}, fail(m.op, m.key, err)
	}
	ctx, stop := c.bounded(ctx)
	defer stop()
	out, err := c.commitOnce(ctx, m)
	if errs.NotApplied(err) && errors.Is(err, errSlotLost) {
		return c.commitOnce(ctx, m) // on a new lease
	}
	return out, err
}

// bounded applies the default timeout to a write of several requests as a whole.
func (c *core) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
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

// extraOps returns how many operations of the limit a write uses in addition to its own: for its
// condition, for the guards and the operations that read them, and for the slot.
func (o *options) extraOps() int {
	n := 1 + len(o.guards)
	for _, g := range o.guards {
		n += len(g.compares)
	}
	if o.once {
		n += 2
	}
	return n
}

// blame returns errSlotLost if err says that a lease does not exist and that lease is the slot's.
// Otherwise it returns err.
func (c *core) blame(ctx context.Context, m *mutation, s *slot, err error) error {
	if !errs.NotApplied(err) || !errors.Is(err, errs.LeaseNotFound) {
		return err
	}
	if m.leased {
		if r, askErr := c.cli.TimeToLive(ctx, s.lease); askErr != nil || r.TTL > 0 {
			return err
		}
	}
	return fail(m.op, m.key, fmt.Errorf("%w: %w", errSlotLost, errs.Cause(err)))
}

func (c *core) commitOnce(ctx context.Context, m *mutation) (outcome, error) {
	s, err := c.slots.take(ctx, c)
	if err != nil {
		return outcome{}, fail(m.op, m.key, err)
	}
	out, err := c.commit(ctx, m, s)
	err = c.blame(ctx, m, s, err)
	switch {
	case errors.Is(err, errSlotLost):
		c.slots.forget(s)
	case err == nil, errs.NotApplied(err):
		c.slots.put(s)
	}
	// Otherwise the content of the slot is unknown. The slot is not reused, and expires with its
	// lease.
	return out, err
}

// reply is the response to one attempt at a mutation, and its evaluation.
type reply struct {
	resp  *clientv3.TxnResponse
	again bool // whether it is not the first attempt
	out   outcome
	err   error
}

// commit sends the transaction, and repeats it while that is safe and can help.
func (c *core) commit(ctx context.Context, m *mutation, s *slot) (outcome, error) {
	var at *slot
	if s != nil {
		own := *s // a lost attempt may still be in flight when s is reused
		at = &own
	}
	call := retry.Call{Pkg: "kv", Op: m.op, Key: m.key, AtMostOnce: m.succeeds > 0 || s != nil}
	send := func(ctx context.Context, again bool) (reply, error) {
		resp, err := c.kv.Txn(ctx).If(m.compares(at)...).Then(m.success(at)...).Else(m.failure(at, again)...).Commit()
		return reply{resp: resp, again: again}, err
	}
	a, err := retry.DoUntil(ctx, c.engine, call, send, func(ctx context.Context, a *reply, others retry.Others) (final bool) {
		a.out, final, a.err = c.evaluate(ctx, m, at, *a, others)
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
		cmps = append(slices.Clip(cmps), s.unchanged())
	}
	return cmps
}

func (m *mutation) success(s *slot) []clientv3.Op {
	if s == nil {
		return m.then
	}
	return append(slices.Clip(m.then), s.mark())
}

// failure returns the operations that read why the transaction was not applied: those for the key,
// for each guard, for the slot, and the extra ones, in this order.
func (m *mutation) failure(s *slot, again bool) []clientv3.Op {
	var ops []clientv3.Op
	if len(m.cond) > 0 {
		get := clientv3.OpGet("")
		get.WithKeyBytes(m.abs)
		ops = append(ops, get)
	}
	ops = append(ops, guardOps(m.guards)...)
	if s != nil {
		ops = append(ops, s.ask(again))
	}
	return append(ops, m.extra...)
}

// guardOps returns the operations that find out which guards hold.
func guardOps(guards []Guard) []clientv3.Op {
	ops := make([]clientv3.Op, len(guards))
	for i, g := range guards {
		ops[i] = clientv3.OpTxn(g.compares, nil, nil)
	}
	return ops
}

// evaluate returns the outcome of the mutation, based on the response to one attempt and the state
// of the other attempts, and reports whether it is final.
func (c *core) evaluate(ctx context.Context, m *mutation, s *slot, a reply, others retry.Others) (out outcome, final bool, err error) {
	rev := a.resp.Header.GetRevision()
	if a.resp.Succeeded {
		return outcome{rev: rev, applied: true, resp: a.resp, slotMod: rev}, true, nil
	}
	answers := a.resp.Responses
	out.rev, out.extra = rev, answers[len(answers)-len(m.extra):]
	if len(m.cond) > 0 {
		if kvs := answers[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
			out.cur = kvs[0]
		}
		answers = answers[1:]
	}
	lost := lostGuards(m.guards, answers)
	if s != nil {
		return s.evaluate(out, answers[len(m.guards)], a.again, rev, others, lost)
	}
	switch {
	case others == retry.OthersNotApplied:
		return out, true, lost
	case others == retry.OthersInFlight && out.cur.GetModRevision() == m.succeeds:
		return out, false, nil // no other attempt has been applied yet
	}
	if err := c.resolve(ctx, m, out); err != nil {
		return out, others == retry.OthersUnknown, err
	}
	return out, true, lost
}

// lostGuards returns the error for the guards that do not hold, given their responses in order. It
// returns nil if all hold.
func lostGuards(guards []Guard, answers []*pb.ResponseOp) error {
	var all []error
	for i, g := range guards {
		switch {
		case answers[i].GetResponseTxn().GetSucceeded():
		case g.lost == nil:
			all = append(all, ErrGuard)
		default:
			all = append(all, fmt.Errorf("%w: %w", ErrGuard, g.lost))
		}
	}
	return join(all)
}
