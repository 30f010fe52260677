package lease

import (
	"errors"
	"fmt"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// The conditions of this package. An error that names one matches it with errors.Is.
var (
	// ErrExpired means that a session is lost: its lease can no longer be trusted. Every loss matches it.
	ErrExpired = errors.New("lease expired")
	// ErrNotFound means that etcd has no such lease, or no longer.
	ErrNotFound = errs.LeaseNotFound
	// ErrExists means that somebody else has the key.
	ErrExists = kv.ErrExists
)

// The conditions shared with the other packages; the values are the same everywhere.
var (
	// ErrInvalid means that the arguments were refused before anything was sent.
	ErrInvalid = errs.Invalid
	// ErrTooLarge means that a limit was passed. It also matches ErrInvalid.
	ErrTooLarge = errs.TooLarge
	// ErrUnavailable means that etcd, or a quorum of it, did not answer or could not be reached.
	ErrUnavailable = errs.Unavailable
	// ErrUnauthenticated means that etcd did not accept the user, the password or the token.
	ErrUnauthenticated = errs.Unauthenticated
	// ErrPermission means that the user may not do this; of a lease, that it holds a key that the user may not write.
	ErrPermission = errs.Permission
	// ErrUnknownOutcome means that a request may have been carried out, or not, or may yet be.
	ErrUnknownOutcome = errs.UnknownOutcome
	// ErrClosed means that the manager, the session, the key or the client is closed.
	ErrClosed = errs.Closed
)

// What is refused before anything is sent.
var (
	errNoContext = fmt.Errorf("%w: nil context", errs.Invalid)
	errNoClient  = fmt.Errorf("%w: no client", errs.Invalid)
	errNoLease   = fmt.Errorf("%w: the client has no Lease", errs.Invalid)
	errNoKV      = fmt.Errorf("%w: the client has no KV", errs.Invalid)
)

// errHookRunning is what Close returns when it has waited in vain for the loss hook.
var errHookRunning = errors.New("the loss hook has not returned")

// opError is the error of an operation that provably changed nothing, unless err says otherwise. If err comes from another
// operation of this package, it loses its prefix.
func opError(op, key string, err error) error {
	return &errs.Error{Pkg: "lease", Op: op, Key: key, Unchanged: true, Err: withoutPrefix(err)}
}

// withoutPrefix is an error of this package as the cause of another one.
func withoutPrefix(err error) error {
	e, ok := err.(*errs.Error) //nolint:errorlint // the outermost alone begins with the prefix
	if !ok || e.Pkg != "lease" {
		return err
	}
	text := e.Op
	if e.Key != "" {
		text += " " + errs.Quote(e.Key)
	}
	return fmt.Errorf("%s: %w", text, e.Err)
}

// lossError is why a session was lost.
type lossError struct {
	condition error // what is known beyond ErrExpired; nil: the deadline has passed
	renewErr  error // of the renewals, nil when none has failed
}

func (e *lossError) Error() string {
	text := ErrExpired.Error()
	if e.condition != nil {
		text += ": " + strings.TrimPrefix(e.condition.Error(), "lease ")
	}
	if e.renewErr != nil {
		text += ": last renewal: " + e.renewErr.Error()
	}
	return text
}

// Unwrap gives all conditions and the last error.
func (e *lossError) Unwrap() []error {
	all := []error{ErrExpired}
	for _, err := range []error{e.condition, e.renewErr} {
		if err != nil {
			all = append(all, err)
		}
	}
	return all
}
