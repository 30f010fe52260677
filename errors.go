package etcdkit

import (
	"errors"

	"github.com/etcdkit/etcdkit/internal/endpoint"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/healthcheck"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/kv"
)

// Conditions shared by all packages, to be matched with errors.Is. The packages export the same
// values: kv.ErrUnavailable is ErrUnavailable.
var (
	// ErrInvalid means that an argument is invalid. Nothing was sent.
	ErrInvalid = errs.Invalid
	// ErrTooLarge means that a limit on size or number was exceeded. It also matches ErrInvalid.
	ErrTooLarge = errs.TooLarge
	// ErrUnavailable means that etcd could not be reached, did not answer or has no quorum.
	ErrUnavailable = errs.Unavailable
	// ErrUnauthenticated means that etcd did not accept the user, the password or the token.
	ErrUnauthenticated = errs.Unauthenticated
	// ErrPermission means that the authenticated user lacks the permission.
	ErrPermission = errs.Permission
	// ErrCompacted means that the requested history was compacted.
	ErrCompacted = errs.Compacted
	// ErrUnknownOutcome means that a write may have been applied, may not have been, or may still
	// be.
	ErrUnknownOutcome = errs.UnknownOutcome
	// ErrClosed means that the client, or the part of it that was called, is closed.
	ErrClosed = errs.Closed
)

// ErrUnsupportedServer means that a member runs a version of etcd that is too old; see
// [WithUnsupportedServers]. The text has the member, its version and the cause.
var ErrUnsupportedServer = healthcheck.ErrUnsupportedServer

// SafeToRetry reports whether the call that failed with err provably changed nothing and will not
// do so later, because it was rejected or never sent. It understands the errors of this module and
// of client/v3. It returns false for a bare context.Canceled or context.DeadlineExceeded, because
// the request may have been sent, and for a batch of which some operations were applied.
func SafeToRetry(err error) bool {
	if err == nil || errors.Is(err, ErrUnknownOutcome) {
		return false
	}
	if batch, ok := errors.AsType[*kv.BatchError](err); ok && batch.Done > 0 {
		return false
	}
	if errs.NotApplied(err) {
		return true
	}
	if _, ok := errors.AsType[*errs.Error](err); ok {
		return false // errs.NotApplied above has decided
	}
	class, _ := retry.Classify(err, false)
	return !class.MayBeApplied()
}

// EndpointError is an error of one endpoint. The error of [Open] contains one for each endpoint
// that failed; errors.As finds the first.
type EndpointError struct {
	Endpoint string
	Err      error
}

// Error returns the endpoint and the cause.
func (e *EndpointError) Error() string { return e.Endpoint + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *EndpointError) Unwrap() error { return e.Err }

// endpointsError has the errors of several endpoints, each of which is an EndpointError.
type endpointsError struct{ endpoint.Errors }

// Unwrap returns the errors of the endpoints.
func (e endpointsError) Unwrap() []error {
	out := make([]error, len(e.Errors))
	for i, err := range e.Errors {
		out[i] = (*EndpointError)(err)
	}
	return out
}

// opError wraps the error of an exported function or method. None of them changes anything in etcd.
func opError(op string, err error) error {
	return &errs.Error{Pkg: "etcdkit", Op: op, NotApplied: true, Err: err}
}
