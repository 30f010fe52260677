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

// mutation is one write, as a transaction: if (condition, guards, slot) then (what it does), else (read why not).
type mutation struct {
	op, key string // for messages; the key is the whole one
	abs     []byte

	cond []clientv3.Cmp // on the key; none for an unconditional write
	then []clientv3.Op
	// succeeds is the mod revision that the condition is on, where it can hold only once: the write can take effect as
	// that revision's immediate successor and never again. 0 where the condition may come true a second time.
	succeeds int64
	value    []byte // what is written, nil for a delete
	// mayHoldAgain reports, by the answers to extra, whether a condition that did not hold may hold later although the key
	// is as it was. nil: it may not.
	mayHoldAgain func(extra []*pb.ResponseOp) bool
	extra        []clientv3.Op // what a refusal reads as well

	guards []Guard
	once   bool
	leased bool // a put names a lease
}

// outcome is what became of a mutation.
type outcome struct {
	rev int64
	// applied says that the write took effect; else cur is the key as it was found.
	applied bool
	cur     *mvccpb.KeyValue
	// resp is the answer to the transaction that took effect, nil where only the slot tells that one did.
	resp *clientv3.TxnResponse
	// extra is what the refusal at rev has read as well.
	extra []*pb.ResponseOp
	// slotMod is the mod revision of the slot, where there is one.
	slotMod int64
}

// write carries out a mutation until it is known what became of it. That the condition did not hold is an outcome and no
// error; that a guard did not hold is an error.
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
	if errs.Unchanged(err) && errors.Is(err, errSlotLost) {
		return c.commitOnce(ctx, m) // on a new lease
	}
	return out, err
}

// bounded gives a write of several requests the default deadline as a whole.
func (c *core) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, c.engine.WriteTimeout, defaultTimeoutError(c.engine.WriteTimeout))
}

// defaultTimeoutError is why a write of several requests was given up whose ctx has no deadline.
type defaultTimeoutError time.Duration

func (e defaultTimeoutError) Error() string { return "default timeout " + time.Duration(e).String() }

// errSlotLost says that a slot vanished or was changed from outside before the write, which was not applied.
var errSlotLost = errors.New("the operation slot was lost")

// extraOps is how many operations of the limit come with a write: its condition, the guards and what asks for them, and
// the slot.
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

// blame finds out whether a lease that was not found is that of the slot, and then says so.
func (c *core) blame(ctx context.Context, m *mutation, s *slot, err error) error {
	if !errs.Unchanged(err) || !errors.Is(err, errs.LeaseNotFound) {
		return err
	}
	if m.leased {
		if r, askErr := c.cli.TimeToLive(ctx, s.lease); askErr != nil || r.TTL > 0 {
			return err
		}
	}
	return fail(m.op, m.key, fmt.Errorf("%w: %w", errSlotLost, reason(err)))
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
	case err == nil, errs.Unchanged(err):
		c.slots.put(s)
	}
	// Else what stands in the slot is not known: it stays behind, and ends with its lease.
	return out, err
}

// reply is etcd's answer to one attempt at a mutation, and what it says.
type reply struct {
	resp  *clientv3.TxnResponse
	again bool // the attempt was not the first one
	out   outcome
	err   error
}

// commit sends the transaction, and again while that is safe and of use.
func (c *core) commit(ctx context.Context, m *mutation, s *slot) (outcome, error) {
	var at *slot
	if s != nil {
		own := *s // an attempt that has lost may still be under way when s is used again
		at = &own
	}
	call := retry.Call{Pkg: "kv", Op: m.op, Key: m.key, Guarded: m.succeeds > 0 || s != nil}
	send := func(ctx context.Context, again bool) (reply, error) {
		resp, err := c.kv.Txn(ctx).If(m.compares(at)...).Then(m.success(at)...).Else(m.failure(at, again)...).Commit()
		return reply{resp: resp, again: again}, err
	}
	a, err := retry.Settle(ctx, c.engine, call, send, func(ctx context.Context, a *reply, others retry.Others) (final bool) {
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
		return a.out, &errs.Error{Pkg: "kv", Op: m.op, Key: m.key, Unchanged: !errors.Is(a.err, ErrUnknownOutcome), Err: a.err}
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

// failure reads why the transaction did not happen: the key, then each guard, then the slot; and what else is asked for.
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

// guardOps is what finds out which guards hold.
func guardOps(guards []Guard) []clientv3.Op {
	ops := make([]clientv3.Op, len(guards))
	for i, g := range guards {
		ops[i] = clientv3.OpTxn(g.compares, nil, nil)
	}
	return ops
}

// evaluate says what became of the mutation, going by the answer to one attempt and by what is known of the others, and
// whether that is final.
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
	case others == retry.None:
		return out, true, lost
	case others == retry.Out && out.cur.GetModRevision() == m.succeeds:
		return out, false, nil // nothing has followed yet
	}
	if err := c.resolve(ctx, m, out); err != nil {
		return out, others == retry.Lost, err
	}
	return out, true, lost
}

// lostGuards is the refusal by those guards of which the answers, in their order, say that they do not hold.
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
