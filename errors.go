package etcdkit

import (
	"errors"
	"fmt"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/kv"
)

// The conditions shared by all packages, matched with errors.Is. The packages export the same values:
// kv.ErrUnavailable is ErrUnavailable.
var (
	// ErrInvalid means that the arguments were refused before anything was sent.
	ErrInvalid = errs.Invalid
	// ErrTooLarge means that a limit on size or number was passed. It also matches ErrInvalid.
	ErrTooLarge = errs.TooLarge
	// ErrUnavailable means that etcd, or a quorum of it, did not answer or could not be reached.
	ErrUnavailable = errs.Unavailable
	// ErrUnauthenticated means that etcd did not accept the user, the password or the token.
	ErrUnauthenticated = errs.Unauthenticated
	// ErrPermission means that the authenticated user may not do this.
	ErrPermission = errs.Permission
	// ErrCompacted means that the history asked for is gone.
	ErrCompacted = errs.Compacted
	// ErrUnknownOutcome means that a write may have been applied, or not, or may yet be.
	ErrUnknownOutcome = errs.UnknownOutcome
	// ErrClosed means that the client, or the part of it that was called, is closed.
	ErrClosed = errs.Closed
)

// errClientClosed is ErrClosed, and says what is closed.
var errClientClosed = fmt.Errorf("client %w", ErrClosed)

// ErrUnsupportedServer means that a member runs a version of etcd that is too old; see [WithUnsupportedServers]. The text
// names member, version and reason.
var ErrUnsupportedServer = errors.New("unsupported server")

// SafeToRetry reports whether the call that failed with err provably changed nothing and will not do so later: it was
// refused, or never left the process. It understands the errors of this module and those of client/v3. The end of a
// context says nothing about what became of a request that was already on its way, so such an error alone is not safe;
// nor is a batch of which some operations were applied.
func SafeToRetry(err error) bool {
	if err == nil || errors.Is(err, ErrUnknownOutcome) {
		return false
	}
	if batch, ok := errors.AsType[*kv.BatchError](err); ok && batch.Done > 0 {
		return false
	}
	if errs.Unchanged(err) {
		return true
	}
	if _, ok := errors.AsType[*errs.Error](err); ok {
		return false // it knows, and says so above
	}
	class, _ := retry.Classify(err, false)
	return !class.Applied()
}

// EndpointError is what is wrong with one endpoint. The error of [Open] holds one for each; errors.As finds the first.
type EndpointError struct {
	Endpoint string
	Err      error
}

// Error names the endpoint and the reason.
func (e *EndpointError) Error() string { return e.Endpoint + ": " + e.Err.Error() }

// Unwrap gives the reason.
func (e *EndpointError) Unwrap() error { return e.Err }

// endpointErrors is what is wrong with several endpoints, in one line.
type endpointErrors []*EndpointError

func (e endpointErrors) Error() string {
	texts := make([]string, len(e))
	for i, one := range e {
		texts[i] = one.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap gives the errors of the endpoints.
func (e endpointErrors) Unwrap() []error {
	out := make([]error, len(e))
	for i, one := range e {
		out[i] = one
	}
	return out
}

// refuse is the error of an operation of the client itself, none of which changes anything.
func refuse(op string, err error) error {
	return &errs.Error{Pkg: "etcdkit", Op: op, Unchanged: true, Err: err}
}

// reasonOf is err without the operation of kv that it came from.
func reasonOf(err error) error {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e.Err
	}
	return err
}
