package lease

import (
	"errors"
	"fmt"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// The errors of this package, for use with errors.Is.
var (
	// ErrExpired means that a session was lost: its lease can no longer be relied on. Every loss
	// matches it.
	ErrExpired = errors.New("lease expired")
	// ErrNotFound means that the lease does not exist, or no longer exists, in etcd.
	ErrNotFound = errs.LeaseNotFound
	// ErrExists means that the key exists and belongs to another owner.
	ErrExists = kv.ErrExists
)

// The errors shared with the other packages; the values are identical.
var (
	// ErrInvalid means that the arguments were rejected before anything was sent.
	ErrInvalid = errs.Invalid
	// ErrTooLarge means that a limit was exceeded. It also matches ErrInvalid.
	ErrTooLarge = errs.TooLarge
	// ErrUnavailable means that etcd, or a quorum of it, did not respond or could not be reached.
	ErrUnavailable = errs.Unavailable
	// ErrUnauthenticated means that etcd did not accept the user, the password or the token.
	ErrUnauthenticated = errs.Unauthenticated
	// ErrPermission means that the user lacks the permission. For a lease, it means that the lease
	// holds a key that the user may not write.
	ErrPermission = errs.Permission
	// ErrUnknownOutcome means that a request may have been applied, or may still be.
	ErrUnknownOutcome = errs.UnknownOutcome
	// ErrClosed means that the manager, the session, the key or the client is closed.
	ErrClosed = errs.Closed
)

// Validation errors, returned before anything is sent.
var (
	errNoClient = fmt.Errorf("%w: no client", errs.Invalid)
	errNoLease  = fmt.Errorf("%w: the client has no Lease", errs.Invalid)
	errNoKV     = fmt.Errorf("%w: the client has no KV", errs.Invalid)
)

// errHookRunning is returned by Close if a hook of the observer does not return in time.
var errHookRunning = errors.New("a hook of the observer has not returned")

// opError returns the error of an operation that changed nothing, unless err says otherwise. If err
// comes from another operation of this package, its prefix is removed.
func opError(op, key string, err error) error {
	return &errs.Error{Pkg: "lease", Op: op, Key: key, NotApplied: true, Err: withoutPrefix(err)}
}

// stillClosingError returns the error of a Close that has waited for another one in vain. What the
// other one has sent may yet be applied.
func stillClosingError(op, key string, err error) error {
	return &errs.Error{Pkg: "lease", Op: op, Key: key, Err: withoutPrefix(err)}
}

// withoutPrefix returns an error of this package without its package prefix, for use as a cause.
func withoutPrefix(err error) error {
	e, ok := err.(*errs.Error) //nolint:errorlint // only the outermost error begins with the prefix
	if !ok || e.Pkg != "lease" {
		return err
	}
	text := e.Op
	if e.Key != "" {
		text += " " + errs.Quote(e.Key)
	}
	return fmt.Errorf("%s: %w", text, e.Err)
}

// lossError is the reason why a session was lost.
type lossError struct {
	condition error // additional condition; nil if the deadline has passed
	renewErr  error // error of the last renewal; nil if none failed
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

// Unwrap returns ErrExpired, the condition and the last renewal error.
func (e *lossError) Unwrap() []error {
	all := []error{ErrExpired}
	for _, err := range []error{e.condition, e.renewErr} {
		if err != nil {
			all = append(all, err)
		}
	}
	return all
}
