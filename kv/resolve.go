package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// resolveSteps is the maximum number of changes that successor goes back.
const resolveSteps = 16

// resolve decides, for a mutation without a slot whose condition does not hold any more, whether an
// earlier attempt may have been applied. An applied m is the direct successor of the revision that
// it requires. resolve returns nil if m was not and will not be applied. Otherwise the error
// matches ErrUnknownOutcome.
func (c *core) resolve(ctx context.Context, m *mutation, out outcome) error {
	cur := out.cur
	if m.succeeds == 0 {
		return fmt.Errorf("%w: the condition may have come true more than once", ErrUnknownOutcome)
	}
	created := cur.GetCreateRevision()
	switch {
	case cur == nil || created > m.succeeds:
		// The key was deleted: by the lost attempt, after it, or independently of it.
		return fmt.Errorf("%w: the key was deleted meanwhile", ErrUnknownOutcome)
	case cur.GetModRevision() == m.succeeds && m.mayHoldAgain != nil && m.mayHoldAgain(out.extra):
		return fmt.Errorf("%w: what did not hold may hold again", ErrUnknownOutcome)
	case m.value == nil, cur.GetModRevision() == m.succeeds:
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

// successor returns the state of the key directly after m.succeeds. It goes back from cur one
// change at a time.
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
			return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, errs.Cause(err))
		case len(before.Kvs) == 0:
			return nil, fmt.Errorf("%w: the key was deleted meanwhile", ErrUnknownOutcome)
		case before.Kvs[0].GetModRevision() <= m.succeeds:
			return cur, nil
		}
		cur = before.Kvs[0]
	}
	return nil, fmt.Errorf("%w: the key has changed many times since", ErrUnknownOutcome)
}
