package retry

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Class is the meaning of a failed attempt for the write that it carried.
type Class int

// The classes. The first five mean that the write was not applied.
const (
	// Retryable means that a retry may succeed.
	Retryable Class = iota
	// NoLeader means that the member has no leader at the moment.
	NoLeader
	// Overloaded means that the server refuses requests for a while.
	Overloaded
	// InvalidToken means that the auth token was refused. client/v3 has obtained a new one by then.
	InvalidToken
	// Permanent means that a retry would fail in the same way.
	Permanent
	// Ambiguous means that the write may have been applied, or may still be.
	Ambiguous
	// AmbiguousPermanent is like Ambiguous, but a retry would fail in the same way.
	AmbiguousPermanent
)

// MayBeApplied reports whether the write may have been applied, or may still be.
func (c Class) MayBeApplied() bool { return c >= Ambiguous }

// errorClasses holds the errors by which etcd reports what became of a request. Errors that are not
// listed are ambiguous.
//
//nolint:gochecknoglobals // a table
var errorClasses = map[string]struct {
	class     Class
	condition error
}{
	// Refused before the handler or before the proposal.
	desc(rpctypes.ErrGRPCNoLeader):               {NoLeader, errs.Unavailable},
	desc(rpctypes.ErrGRPCNotCapable):             {Retryable, errs.Unavailable},
	desc(rpctypes.ErrGRPCNotSupportedForLearner): {Retryable, errs.Unavailable},
	desc(rpctypes.ErrGRPCRequestTooManyRequests): {Overloaded, errs.Unavailable},

	desc(rpctypes.ErrGRPCInvalidAuthToken): {InvalidToken, errs.Unauthenticated},
	desc(rpctypes.ErrGRPCAuthOldRevision):  {InvalidToken, errs.Unauthenticated},
	desc(rpctypes.ErrGRPCUserEmpty):        {InvalidToken, errs.Unauthenticated},
	desc(rpctypes.ErrGRPCAuthFailed):       {Permanent, errs.Unauthenticated},
	desc(rpctypes.ErrGRPCUserNotFound):     {Permanent, errs.Unauthenticated},

	desc(rpctypes.ErrGRPCPermissionDenied):   {Permanent, errs.Permission},
	desc(rpctypes.ErrGRPCPermissionNotGiven): {Permanent, errs.Permission},

	desc(rpctypes.ErrGRPCCompacted):         {Permanent, errs.Compacted},
	desc(rpctypes.ErrGRPCRequestTooLarge):   {Permanent, errs.TooLarge},
	desc(rpctypes.ErrGRPCTooManyOps):        {Permanent, errs.TooLarge},
	desc(rpctypes.ErrGRPCDuplicateKey):      {Permanent, errs.Invalid},
	desc(rpctypes.ErrGRPCFutureRev):         {Permanent, errs.Invalid},
	desc(rpctypes.ErrGRPCEmptyKey):          {Permanent, errs.Invalid},
	desc(rpctypes.ErrGRPCValueProvided):     {Permanent, errs.Invalid},
	desc(rpctypes.ErrGRPCLeaseProvided):     {Permanent, errs.Invalid},
	desc(rpctypes.ErrGRPCInvalidSortOption): {Permanent, errs.Invalid},
	desc(rpctypes.ErrGRPCLeaseTTLTooLarge):  {Permanent, errs.Invalid},
	desc(rpctypes.ErrGRPCKeyNotFound):       {Permanent, nil},
	desc(rpctypes.ErrGRPCLeaseNotFound):     {Permanent, errs.LeaseNotFound},
	desc(rpctypes.ErrGRPCLeaseExist):        {Permanent, nil},
	desc(rpctypes.ErrGRPCCorrupt):           {Permanent, errs.Unavailable},

	// The database is full. Some members return this error after they have applied the put.
	desc(rpctypes.ErrGRPCNoSpace): {AmbiguousPermanent, errs.Unavailable},
}

func desc(err error) string { return rpctypes.ErrorDesc(err) }

// Classify returns the class of an attempt's error and the condition of package errs that it meets,
// or nil if it meets none. notSent means that the request provably never left the process.
func Classify(err error, notSent bool) (Class, error) {
	text := Message(err)
	if v, ok := errorClasses[text]; ok {
		return v.class, v.condition
	}
	switch code := Code(err); {
	case errors.Is(err, errs.Invalid):
		return Permanent, nil // err already matches it
	case code == codes.ResourceExhausted && strings.Contains(text, "trying to send message larger than max"):
		return Permanent, errs.TooLarge
	case code == codes.ResourceExhausted && strings.Contains(text, "message larger than max"):
		return AmbiguousPermanent, errs.TooLarge
	case code == codes.PermissionDenied:
		return Permanent, errs.Permission
	case code == codes.Unauthenticated:
		return Permanent, errs.Unauthenticated
	case code == codes.Unimplemented:
		return Permanent, nil
	case notSent, errs.NotApplied(err):
		return Retryable, errs.Unavailable
	}
	return Ambiguous, errs.Unavailable
}

// serverPrefix is the prefix of all errors that etcd itself returns.
const serverPrefix = "etcdserver: "

// isConnectionLost reports whether err says that the connection ended or could not be used. It
// returns false for errors that etcd itself returns.
func isConnectionLost(err error) bool {
	return Code(err) == codes.Unavailable && !strings.HasPrefix(Message(err), serverPrefix)
}

// isFutureRevision reports whether err says that the member does not know the requested revision.
func isFutureRevision(err error) bool { return Message(err) == desc(rpctypes.ErrGRPCFutureRev) }

// Code returns the gRPC code of err, in any form in which client/v3 returns it.
func Code(err error) codes.Code {
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return e.Code()
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return status.Code(err)
}

// descPrefix precedes the server's message in the text of a gRPC error.
const descPrefix = " desc = "

// Message returns the server's message in err, without the text that gRPC adds.
func Message(err error) string {
	text := err.Error()
	if s, ok := status.FromError(err); ok {
		text = s.Message()
	} else if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		text = e.Error()
	}
	// The error of a refused watch is a plain string of the form `rpc error: code = X desc = TEXT`,
	// or a status that contains one. So is the text of a wrapped status.
	if i := strings.LastIndex(text, descPrefix); i >= 0 {
		text = text[i+len(descPrefix):]
	}
	return text
}

// WithCondition wraps err so that it also matches condition, unless condition is nil.
func WithCondition(err, condition error) error {
	switch {
	case condition == nil || errors.Is(err, condition):
		return err
	case errors.Is(condition, errs.LeaseNotFound):
		return fmt.Errorf("%w (%w)", condition, err)
	}
	return fmt.Errorf("%w: %w", condition, err)
}
