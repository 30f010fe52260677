package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// resolveSteps bounds how many changes back the successor of a revision is looked for.
const resolveSteps = 16

// resolve decides, without a slot, whether an earlier attempt at m may have taken effect, now that the condition does not
// hold any more. m can only be the immediate successor of the revision it is conditional on. nil means that it was not
// applied and will not be; else the error matches ErrUnknownOutcome.
func (c *core) resolve(ctx context.Context, m *mutation, out outcome) error {
	cur := out.cur
	if m.succeeds == 0 {
		return fmt.Errorf("%w: the condition may have come true more than once", ErrUnknownOutcome)
	}
	created := cur.GetCreateRevision()
	switch {
	case cur == nil || created > m.succeeds:
		// Deleted since: by the lost attempt, or after it, or without it.
		return fmt.Errorf("%w: the key was deleted meanwhile", ErrUnknownOutcome)
	case cur.GetModRevision() == m.succeeds && m.mayHoldAgain != nil && m.mayHoldAgain(out.extra):
		return fmt.Errorf("%w: what did not hold may hold again", ErrUnknownOutcome)
	case m.value == nil, cur.GetModRevision() == m.succeeds:
		return nil // the key was not deleted, or not touched at all, since; and the guard that failed stays so (NewGuard)
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

// successor finds the state that came right after m.succeeds, going back from cur one change at a time.
func (c *core) successor(ctx context.Context, m *mutation, cur *mvccpb.KeyValue) (*mvccpb.KeyValue, error) {
	for range resolveSteps {
		call := retry.Call{Pkg: "kv", Op: m.op, Key: m.key, Read: true}
		rev := cur.GetModRevision() - 1
		before, err := retry.Do(ctx, c.engine, call, func(ctx context.Context, _ bool) (*clientv3.GetResponse, error) {
			return c.get(ctx, m.abs, clientv3.WithRev(rev))
		})
		switch {
		case errors.Is(err, ErrCompacted):
			return nil, fmt.Errorf("%w: the history that tells is compacted", ErrUnknownOutcome)
		case err != nil:
			return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, reason(err))
		case len(before.Kvs) == 0:
			return nil, fmt.Errorf("%w: the key was deleted meanwhile", ErrUnknownOutcome)
		case before.Kvs[0].GetModRevision() <= m.succeeds:
			return cur, nil
		}
		cur = before.Kvs[0]
	}
	return nil, fmt.Errorf("%w: the key has changed many times since", ErrUnknownOutcome)
}
