package retry_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// inEachForm runs f with err as a server sends it and as client/v3 hands it on.
func inEachForm(t *testing.T, err error, f func(t *testing.T, err error)) {
	t.Helper()
	forms := map[string]error{"a status": err, "a status, wrapped": fmt.Errorf("while reading: %w", err), "a string": errors.New(err.Error())}
	if e, ok := errors.AsType[rpctypes.EtcdError](rpctypes.Error(err)); ok {
		forms["an EtcdError"] = e
		forms["an EtcdError, wrapped"] = fmt.Errorf("while reading: %w", e)
	}
	for name, err := range forms {
		t.Run("as "+name, func(t *testing.T) {
			t.Parallel()
			f(t, err)
		})
	}
}

func TestClassify_KnowsEtcdErrors(t *testing.T) {
	t.Parallel()
	rows := []struct {
		err       error
		class     retry.Class
		condition error
	}{
		{rpctypes.ErrGRPCNoLeader, retry.NoLeader, errs.Unavailable},
		{rpctypes.ErrGRPCRequestTooManyRequests, retry.Overloaded, errs.Unavailable},
		{rpctypes.ErrGRPCNotSupportedForLearner, retry.Retryable, errs.Unavailable},
		{rpctypes.ErrGRPCNotCapable, retry.Retryable, errs.Unavailable},
		{rpctypes.ErrGRPCInvalidAuthToken, retry.InvalidToken, errs.Unauthenticated},
		{rpctypes.ErrGRPCUserEmpty, retry.InvalidToken, errs.Unauthenticated},
		{rpctypes.ErrGRPCAuthOldRevision, retry.InvalidToken, errs.Unauthenticated},
		{rpctypes.ErrGRPCAuthFailed, retry.Permanent, errs.Unauthenticated},
		{rpctypes.ErrGRPCUserNotFound, retry.Permanent, errs.Unauthenticated},
		{rpctypes.ErrGRPCPermissionDenied, retry.Permanent, errs.Permission},
		{rpctypes.ErrGRPCPermissionNotGiven, retry.Permanent, errs.Permission},
		{rpctypes.ErrGRPCRequestTooLarge, retry.Permanent, errs.TooLarge},
		{rpctypes.ErrGRPCTooManyOps, retry.Permanent, errs.TooLarge},
		{rpctypes.ErrGRPCDuplicateKey, retry.Permanent, errs.Invalid},
		{rpctypes.ErrGRPCFutureRev, retry.Permanent, errs.Invalid},
		{rpctypes.ErrGRPCEmptyKey, retry.Permanent, errs.Invalid},
		{rpctypes.ErrGRPCLeaseTTLTooLarge, retry.Permanent, errs.Invalid},
		{rpctypes.ErrGRPCCompacted, retry.Permanent, errs.Compacted},
		{rpctypes.ErrGRPCLeaseNotFound, retry.Permanent, errs.LeaseNotFound},
		{rpctypes.ErrGRPCLeaseExist, retry.Permanent, nil},
		{rpctypes.ErrGRPCKeyNotFound, retry.Permanent, nil},
		{rpctypes.ErrGRPCCorrupt, retry.Permanent, errs.Unavailable},
		{rpctypes.ErrGRPCNoSpace, retry.AmbiguousPermanent, errs.Unavailable},
	}
	for _, tt := range rows {
		t.Run(rpctypes.ErrorDesc(tt.err), func(t *testing.T) {
			t.Parallel()
			inEachForm(t, tt.err, func(t *testing.T, err error) {
				t.Helper()
				for _, notSent := range []bool{false, true} {
					class, condition := retry.Classify(err, notSent)
					assert.Equal(t, tt.class, class)
					assert.Equal(t, tt.condition, condition)
				}
			})
		})
	}
}

func TestClassify_UnknownErrorIsAmbiguousUnlessNotSent(t *testing.T) {
	t.Parallel()
	rows := map[string]error{
		"the proposal timed out":              rpctypes.ErrGRPCTimeout,
		"the leader failed":                   rpctypes.ErrGRPCTimeoutDueToLeaderFail,
		"the member lost its peers":           rpctypes.ErrGRPCTimeoutDueToConnectionLost,
		"the applied index was not reached":   rpctypes.ErrGRPCTimeoutWaitAppliedIndex,
		"the leader changed":                  rpctypes.ErrGRPCLeaderChanged,
		"the server stopped":                  rpctypes.ErrGRPCStopped,
		"the connection ended":                status.Error(codes.Unavailable, "error reading from server: EOF"),
		"a proxy said Canceled":               status.Error(codes.Canceled, "context canceled"),
		"a proxy said DeadlineExceeded":       status.Error(codes.DeadlineExceeded, "context deadline exceeded"),
		"a proxy said Internal":               status.Error(codes.Internal, "stream terminated by RST_STREAM"),
		"a proxy said Aborted":                status.Error(codes.Aborted, "try again"),
		"somebody said Unknown":               status.Error(codes.Unknown, "boom"),
		"the deadline passed":                 context.DeadlineExceeded,
		"the call was given up":               context.Canceled,
		"the deadline passed, with a wrapper": fmt.Errorf("read: %w", context.DeadlineExceeded),
	}
	for name, err := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inEachForm(t, err, func(t *testing.T, err error) {
				t.Helper()
				class, condition := retry.Classify(err, false)
				assert.Equal(t, retry.Ambiguous, class)
				assert.Equal(t, errs.Unavailable, condition)
				class, condition = retry.Classify(err, true)
				assert.Equal(t, retry.Retryable, class)
				assert.Equal(t, errs.Unavailable, condition)
			})
		})
	}
}

func TestClassify_KnowsLocalErrors(t *testing.T) {
	t.Parallel()
	rows := map[string]struct {
		err       error
		class     retry.Class
		condition error
	}{
		"input that was refused here":         {fmt.Errorf("%w: empty key", errs.Invalid), retry.Permanent, nil},
		"a request too large to send":         {status.Error(codes.ResourceExhausted, "trying to send message larger than max (3145784 vs. 2097152)"), retry.Permanent, errs.TooLarge},
		"a message too large to receive":      {status.Error(codes.ResourceExhausted, "grpc: received message larger than max (3145784 vs. 2097152)"), retry.AmbiguousPermanent, errs.TooLarge},
		"a proxy that forbids it":             {status.Error(codes.PermissionDenied, "RBAC: access denied"), retry.Permanent, errs.Permission},
		"a proxy that wants another login":    {status.Error(codes.Unauthenticated, "Jwt is expired"), retry.Permanent, errs.Unauthenticated},
		"a method that the server lacks":      {status.Error(codes.Unimplemented, "unknown method RangeStream for service etcdserverpb.KV"), retry.Permanent, nil},
		"a status that only looks like input": {status.Error(codes.InvalidArgument, "what?"), retry.Ambiguous, errs.Unavailable},
		"a call that a KV below has not sent": {&errs.Error{Pkg: "kv", Op: "put", NotApplied: true, Err: context.Canceled}, retry.Retryable, errs.Unavailable},
		"a call that a KV below may have sent": {
			&errs.Error{Pkg: "kv", Op: "put", NotApplied: true, Err: fmt.Errorf("%w: %w", errs.UnknownOutcome, context.Canceled)},
			retry.Ambiguous, errs.Unavailable,
		},
	}
	for name, tt := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			class, condition := retry.Classify(tt.err, false)
			assert.Equal(t, tt.class, class)
			assert.Equal(t, tt.condition, condition)
			if tt.class == retry.Ambiguous {
				return
			}
			class, condition = retry.Classify(tt.err, true)
			assert.Equal(t, tt.class, class, "whether it was sent is of no matter")
			assert.Equal(t, tt.condition, condition)
		})
	}
}

func TestClassify_UnwrapsRefusedWatch(t *testing.T) {
	t.Parallel()
	err := rpctypes.Error(status.Error(codes.FailedPrecondition, rpctypes.ErrGRPCInvalidAuthToken.Error()))
	class, _ := retry.Classify(err, false)
	assert.Equal(t, retry.InvalidToken, class)
	assert.Equal(t, "etcdserver: invalid auth token", retry.Message(err))
}

func TestClass_MayBeApplied(t *testing.T) {
	t.Parallel()
	applied := map[retry.Class]bool{
		retry.Retryable: false, retry.NoLeader: false, retry.Overloaded: false, retry.InvalidToken: false, retry.Permanent: false,
		retry.Ambiguous: true, retry.AmbiguousPermanent: true,
	}
	for class, want := range applied {
		assert.Equal(t, want, class.MayBeApplied(), class)
	}
}

func TestCode_AcceptsEveryForm(t *testing.T) {
	t.Parallel()
	assert.Equal(t, codes.OutOfRange, retry.Code(rpctypes.ErrCompacted), "an EtcdError has no status")
	assert.Equal(t, codes.OutOfRange, retry.Code(rpctypes.ErrGRPCCompacted))
	assert.Equal(t, codes.DeadlineExceeded, retry.Code(fmt.Errorf("x: %w", context.DeadlineExceeded)))
	assert.Equal(t, codes.Canceled, retry.Code(context.Canceled))
	assert.Equal(t, codes.Unknown, retry.Code(errors.New("boom")))
}

func TestWithCondition_KeepsErrorAndAddsCondition(t *testing.T) {
	t.Parallel()
	plain := errors.New("boom")
	assert.Equal(t, plain, retry.WithCondition(plain, nil))
	invalid := fmt.Errorf("%w: empty key", errs.Invalid)
	assert.Equal(t, invalid, retry.WithCondition(invalid, errs.Invalid), "once is enough")
	both := retry.WithCondition(rpctypes.ErrCompacted, errs.Compacted)
	require.ErrorIs(t, both, errs.Compacted)
	require.ErrorIs(t, both, rpctypes.ErrCompacted)
	gone := retry.WithCondition(rpctypes.ErrLeaseNotFound, errs.LeaseNotFound)
	require.ErrorIs(t, gone, rpctypes.ErrLeaseNotFound)
	assert.EqualError(t, gone, "lease not found (etcdserver: requested lease not found)")
}
