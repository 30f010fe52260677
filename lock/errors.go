package lock

import (
	"errors"
	"fmt"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// The conditions of this package. Match them with errors.Is.
var (
	// ErrLocked means that another owner holds the lock. See LockedError.
	ErrLocked = errors.New("held by another owner")
	// ErrLost means that a hold or a place in the queue is gone: its lease has expired or was
	// revoked, or its key was deleted. Every loss matches it, and so does a write that a guard has
	// refused.
	ErrLost = errors.New("lock lost")
	// ErrReleased means that the hold was already released.
	ErrReleased = errors.New("lock released")
	// ErrNoLeader means that an election has no leader at present.
	ErrNoLeader = errors.New("no leader")
)

// The conditions shared with other packages. The values are the same in all of them.
var (
	// ErrInvalid means that the arguments were rejected before anything was sent.
	ErrInvalid = errs.Invalid
	// ErrUnavailable means that etcd, or a quorum of it, did not answer or could not be reached.
	ErrUnavailable = errs.Unavailable
	// ErrPermission means that the user lacks the permission.
	ErrPermission = errs.Permission
	// ErrUnknownOutcome means that a request may or may not have been applied, or may yet be.
	ErrUnknownOutcome = errs.UnknownOutcome
	// ErrClosed means that the locker or the client is closed.
	ErrClosed = errs.Closed
)

// LockedError names the owner that holds or waits for the lock. It matches [ErrLocked].
type LockedError struct {
	Name string
	// Owner is the name of the owner, see WithOwner. It is "lease 694d..." if the owner gave no
	// name, such as a mutex of client/v3. It is "" if the owner is not known: this process waits
	// for it and has not read it yet, or TryLock stopped because too many longer names lie below
	// the name.
	Owner string
	// Token is the mod revision of the owner's key. This is its fencing token, or, if the owner had
	// to wait for the lock, a lower bound of its token. It is never higher than the token of the
	// next holder. It is 0 if Owner is "" or the hold is a shared one.
	Token int64
	// Local reports whether the owner acquired the lock, or waits for it, through the same Locker
	// of this process. Another Locker of this process counts as another owner.
	Local bool
}

// Error returns a text that names the owner.
func (e *LockedError) Error() string {
	text := ErrLocked.Error()
	if e.Local {
		text = "held by this process"
	}
	if e.Owner != "" {
		text += ": " + e.Owner
	}
	if e.Token != 0 {
		text += fmt.Sprintf(" (token %d)", e.Token)
	}
	return text
}

// Unwrap returns ErrLocked.
func (e *LockedError) Unwrap() error { return ErrLocked }

// BlockedError means that a key without a lease blocks the queue. Only an operator can remove such
// a key, so waiting is useless. No lock, no election and no client that follows their protocol
// creates one. Its usual cause is data that is stored below the name.
type BlockedError struct {
	Name string
	// Key is the blocking key, relative to the namespace.
	Key string
	// Revision is the create revision of the key.
	Revision int64
}

// Error returns a text that names the key.
func (e *BlockedError) Error() string {
	return fmt.Sprintf("blocked by key %s, which has no lease, since revision %d", errs.Quote(e.Key), e.Revision)
}

// opError returns the error of an operation of this package.
func opError(op, name string, err error) error {
	return &errs.Error{Pkg: "lock", Op: op, Key: name, NotApplied: !errors.Is(err, errs.UnknownOutcome), Err: err}
}

// lostError is a loss with its cause. It matches ErrLost and the cause.
type lostError struct{ cause error }

// newLostError returns an error that matches ErrLost and cause.
func newLostError(cause error) error {
	if errors.Is(cause, ErrLost) {
		return cause
	}
	return &lostError{cause}
}

// Error returns a text that includes the cause.
func (e *lostError) Error() string { return ErrLost.Error() + ": " + e.cause.Error() }

// Unwrap returns ErrLost and the cause.
func (e *lostError) Unwrap() []error { return []error{ErrLost, e.cause} }

// The causes of the loss of a key.
var (
	errKeyDeleted  = errors.New("its key was deleted")
	errOverwritten = errors.New("its key was overwritten")
	errLeaseEnded  = errors.New("its lease has ended")
)

// cleanedUpError is the error of a request whose outcome no longer matters, because its effects are
// removed. It does not match ErrUnknownOutcome.
type cleanedUpError struct{ err error }

// Error returns the error of the request without the words for an unknown outcome.
func (e *cleanedUpError) Error() string {
	return strings.ReplaceAll(e.err.Error(), errs.UnknownOutcome.Error()+": ", "")
}

// Is reports whether the wrapped error matches target. It is false for ErrUnknownOutcome.
func (e *cleanedUpError) Is(target error) bool {
	return target != errs.UnknownOutcome && errors.Is(e.err, target)
}

// As finds target in the wrapped error.
func (e *cleanedUpError) As(target any) bool { return errors.As(e.err, target) }
