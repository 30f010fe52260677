package etcdkit_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

func TestErrors_AreTheSameInAllPackages(t *testing.T) {
	t.Parallel()
	assert.ErrorIs(t, kv.ErrUnavailable, etcdkit.ErrUnavailable)
	assert.ErrorIs(t, kv.ErrUnknownOutcome, etcdkit.ErrUnknownOutcome)
	assert.ErrorIs(t, kv.ErrInvalid, etcdkit.ErrInvalid)
	assert.ErrorIs(t, etcdkit.ErrTooLarge, etcdkit.ErrInvalid)
	assert.NotErrorIs(t, etcdkit.ErrInvalid, etcdkit.ErrTooLarge)
}

func TestSafeToRetry(t *testing.T) {
	t.Parallel()
	unchanged := &errs.Error{Pkg: "kv", Op: "put", NotApplied: true, Err: errs.Unavailable}
	unknown := &errs.Error{Pkg: "kv", Op: "put", Err: fmt.Errorf("%w: %w", errs.UnknownOutcome, context.DeadlineExceeded)}
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"no error", nil, false},
		{"refused before it was sent", fmt.Errorf("outer: %w", etcdkit.ErrInvalid), true},
		{"a call that provably changed nothing", unchanged, true},
		{"wrapped", fmt.Errorf("outer: %w", unchanged), true},
		{"an unknown outcome", unknown, false},
		{"an unknown outcome below a known one", errors.Join(unchanged, unknown), false},
		{"a call that may have changed something", &errs.Error{Pkg: "kv", Op: "put", Err: errs.Unavailable}, false},
		{"a batch that has not begun", &kv.BatchError{Err: unchanged}, true},
		{"a batch that has", &kv.BatchError{Done: 1, Err: unchanged}, false},
		{"such a batch, wrapped", &errs.Error{Pkg: "kv", Op: "batch", NotApplied: true, Err: &kv.BatchError{Done: 1, Err: unchanged}}, false},
		{"client/v3: no leader", rpctypes.ErrNoLeader, true},
		{"client/v3: permission denied", rpctypes.ErrPermissionDenied, true},
		{"client/v3: too many requests", rpctypes.ErrTooManyRequests, true},
		{"client/v3: a full database, which some members find out after the write", rpctypes.ErrNoSpace, false},
		{"client/v3: the request timed out", rpctypes.ErrTimeout, false},
		{"gRPC: unavailable", status.Error(codes.Unavailable, "transport is closing"), false},
		{"the end of a context", context.DeadlineExceeded, false},
		{"a cancelled context", context.Canceled, false},
		{"somebody else's error", errors.New("odd"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, etcdkit.SafeToRetry(tt.err))
		})
	}
}
