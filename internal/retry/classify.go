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

// Class says what a failed attempt means for the write that it carried.
type Class int

// The classes, from the most to the least hopeful.
const (
	// Refused: not applied; sending it again may help.
	Refused Class = iota
	// Leaderless: not applied; the member that was asked has no leader at the moment.
	Leaderless
	// Busy: not applied; the server asks to be left alone for a while.
	Busy
	// Reauth: not applied; the token was refused. Client/v3 has logged in again by then.
	Reauth
	// Hopeless: not applied, and it would fail the same way again.
	Hopeless
	// Ambiguous: applied, not applied, or yet to be applied.
	Ambiguous
	// Full: as Ambiguous, but sending it again is no use before somebody makes room.
	Full
)

// Applied reports whether the write may have been, or may yet be, applied.
func (c Class) Applied() bool { return c >= Ambiguous }

// verdicts are the errors by which etcd itself says what became of a request. What is not listed is ambiguous.
//
//nolint:gochecknoglobals // a table
var verdicts = map[string]struct {
	class     Class
	condition error
}{
	// Refused before the handler or before the proposal.
	desc(rpctypes.ErrGRPCNoLeader):               {Leaderless, errs.Unavailable},
	desc(rpctypes.ErrGRPCNotCapable):             {Refused, errs.Unavailable},
	desc(rpctypes.ErrGRPCNotSupportedForLearner): {Refused, errs.Unavailable},
	desc(rpctypes.ErrGRPCRequestTooManyRequests): {Busy, errs.Unavailable},

	desc(rpctypes.ErrGRPCInvalidAuthToken): {Reauth, errs.Unauthenticated},
	desc(rpctypes.ErrGRPCAuthOldRevision):  {Reauth, errs.Unauthenticated},
	desc(rpctypes.ErrGRPCUserEmpty):        {Reauth, errs.Unauthenticated},
	desc(rpctypes.ErrGRPCAuthFailed):       {Hopeless, errs.Unauthenticated},
	desc(rpctypes.ErrGRPCUserNotFound):     {Hopeless, errs.Unauthenticated},

	desc(rpctypes.ErrGRPCPermissionDenied):   {Hopeless, errs.Permission},
	desc(rpctypes.ErrGRPCPermissionNotGiven): {Hopeless, errs.Permission},

	desc(rpctypes.ErrGRPCCompacted):         {Hopeless, errs.Compacted},
	desc(rpctypes.ErrGRPCRequestTooLarge):   {Hopeless, errs.TooLarge},
	desc(rpctypes.ErrGRPCTooManyOps):        {Hopeless, errs.TooLarge},
	desc(rpctypes.ErrGRPCDuplicateKey):      {Hopeless, errs.Invalid},
	desc(rpctypes.ErrGRPCFutureRev):         {Hopeless, errs.Invalid},
	desc(rpctypes.ErrGRPCEmptyKey):          {Hopeless, errs.Invalid},
	desc(rpctypes.ErrGRPCValueProvided):     {Hopeless, errs.Invalid},
	desc(rpctypes.ErrGRPCLeaseProvided):     {Hopeless, errs.Invalid},
	desc(rpctypes.ErrGRPCInvalidSortOption): {Hopeless, errs.Invalid},
	desc(rpctypes.ErrGRPCLeaseTTLTooLarge):  {Hopeless, errs.Invalid},
	desc(rpctypes.ErrGRPCKeyNotFound):       {Hopeless, nil},
	desc(rpctypes.ErrGRPCLeaseNotFound):     {Hopeless, errs.LeaseNotFound},
	desc(rpctypes.ErrGRPCLeaseExist):        {Hopeless, nil},
	desc(rpctypes.ErrGRPCCorrupt):           {Hopeless, errs.Unavailable},

	// A full database: some members answer so after they have applied the put.
	desc(rpctypes.ErrGRPCNoSpace): {Full, errs.Unavailable},
}

func desc(err error) string { return rpctypes.ErrorDesc(err) }

// Classify says what the failure of one attempt means, and which condition it is, nil where none fits. notSent says that
// the request provably never left the process.
func Classify(err error, notSent bool) (Class, error) {
	text := Message(err)
	if v, ok := verdicts[text]; ok {
		return v.class, v.condition
	}
	switch code := Code(err); {
	case errors.Is(err, errs.Invalid):
		return Hopeless, nil // its text says which
	case code == codes.ResourceExhausted && strings.Contains(text, "trying to send message larger than max"):
		return Hopeless, errs.TooLarge
	case code == codes.ResourceExhausted && strings.Contains(text, "message larger than max"):
		return Full, errs.TooLarge
	case code == codes.PermissionDenied:
		return Hopeless, errs.Permission
	case code == codes.Unauthenticated:
		return Hopeless, errs.Unauthenticated
	case code == codes.Unimplemented:
		return Hopeless, nil
	case notSent, errs.Unchanged(err): // by what went through the wire, or by one who has kept it from that
		return Refused, errs.Unavailable
	}
	return Ambiguous, errs.Unavailable
}

// serverWords begin each of the errors that etcd makes itself.
const serverWords = "etcdserver: "

// connectionLost reports whether err is that of a connection that ended, or could not be used, and none of etcd's own.
func connectionLost(err error) bool {
	return Code(err) == codes.Unavailable && !strings.HasPrefix(Message(err), serverWords)
}

// futureRevision reports whether err is that of a member which does not know the revision that was asked for.
func futureRevision(err error) bool { return Message(err) == desc(rpctypes.ErrGRPCFutureRev) }

// Code is the gRPC code of err in each of the forms in which client/v3 returns it.
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

// descWords come before the text of the server where gRPC prints an error.
const descWords = " desc = "

// Message is the text of the server in err, without the words of gRPC around it.
func Message(err error) string {
	text := err.Error()
	if s, ok := status.FromError(err); ok {
		text = s.Message()
	} else if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		text = e.Error()
	}
	// A watch that is refused comes as a plain string, or as a status around one: `rpc error: code = X desc = TEXT`. So
	// does a status that was wrapped.
	if i := strings.LastIndex(text, descWords); i >= 0 {
		text = text[i+len(descWords):]
	}
	return text
}

// Explain gives err the conditions it meets, and keeps it.
func Explain(err, condition error) error {
	switch {
	case condition == nil || errors.Is(err, condition):
		return err
	case errors.Is(condition, errs.LeaseNotFound):
		return fmt.Errorf("%w (%w)", condition, err)
	}
	return fmt.Errorf("%w: %w", condition, err)
}
