package lock

import (
	"errors"
	"fmt"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// The conditions of this package. An error that names one matches it with errors.Is.
var (
	// ErrLocked means that somebody else has it. See [LockedError].
	ErrLocked = errors.New("lock: held by another")
	// ErrLost means that what was held, or the place in the queue, is gone: its lease has expired or was revoked, or its
	// key was deleted. Every loss matches it, as does a write that a guard has refused.
	ErrLost = errors.New("lock: lost")
	// ErrReleased means that it was released before.
	ErrReleased = errors.New("lock: released")
	// ErrNoLeader means that an election has no leader at the moment.
	ErrNoLeader = errors.New("lock: no leader")
)

// The conditions shared with the other packages; the values are the same everywhere.
var (
	// ErrInvalid means that the arguments were refused before anything was sent.
	ErrInvalid = errs.Invalid
	// ErrUnavailable means that etcd, or a quorum of it, did not answer or could not be reached.
	ErrUnavailable = errs.Unavailable
	// ErrPermission means that the user may not do this.
	ErrPermission = errs.Permission
	// ErrUnknownOutcome means that a request may have been carried out, or not, or may yet be.
	ErrUnknownOutcome = errs.UnknownOutcome
	// ErrClosed means that the locker or the client is closed.
	ErrClosed = errs.Closed
)

// LockedError says who is in the way. It matches [ErrLocked].
type LockedError struct {
	Name string
	// Owner is what the owner calls itself, see [WithOwner]; "lease 694d..." of one that does not say, such as a mutex of
	// client/v3; "" where this process itself waits for an owner that it does not know yet.
	Owner string
	// Token is the mod revision of the owner's key: its fencing token, or, if the owner had to wait for the lock, a lower bound of
	// it, and never higher than the token of the next holder. It is 0 if Owner is "", and if the hold is a shared one.
	Token int64
	// Local reports whether the owner has the lock by the same [Locker], and so is this process. Another Locker of this process
	// counts as another owner.
	Local bool
}

// Error names the owner.
func (e *LockedError) Error() string {
	text := ErrLocked.Error()
	if e.Local {
		text = "lock: held by this process"
	}
	if e.Owner != "" {
		text += ": " + e.Owner
	}
	if e.Token != 0 {
		text += fmt.Sprintf(" (token %d)", e.Token)
	}
	return text
}

// Unwrap gives ErrLocked.
func (e *LockedError) Unwrap() error { return ErrLocked }

// BlockedError is a queue in which a key without a lease is in the way: nothing but an operator will ever remove it, so
// waiting is of no use. No lock, no election and no client that speaks their protocol leaves such a key; usually somebody keeps data below
// the name.
type BlockedError struct {
	Name string
	// Key is the one in the way, relative to the namespace.
	Key string
	// Revision is when it was created.
	Revision int64
}

// Error names the key.
func (e *BlockedError) Error() string {
	return fmt.Sprintf("lock: blocked by key %s, which has no lease, since revision %d", errs.Quote(e.Key), e.Revision)
}

// fail is the error of an operation that provably changed nothing, or undid it.
func fail(op, name string, err error) error {
	return &errs.Error{Pkg: "lock", Op: op, Key: name, Unchanged: true, Err: plain(err)}
}

// doubtful is the error of an operation that may have changed something.
func doubtful(op, name string, err error) error {
	return &errs.Error{Pkg: "lock", Op: op, Key: name, Unchanged: !errors.Is(err, errs.UnknownOutcome), Err: plain(err)}
}

// reason is err without the words of another package for its call: this one has its own.
func reason(err error) error {
	if e, ok := err.(*errs.Error); ok { //nolint:errorlint // as it is, not what it wraps
		return e.Err
	}
	return err
}

// plain says the package's name once, where fail says it too.
func plain(err error) error {
	if text := err.Error(); strings.HasPrefix(text, "lock: ") {
		return &shorter{err, strings.TrimPrefix(text, "lock: ")}
	}
	return err
}

// shorter is an error with another text.
type shorter struct {
	error

	text string
}

// Error is the other text.
func (e *shorter) Error() string { return e.text }

// Unwrap gives the error itself.
func (e *shorter) Unwrap() error { return e.error }

// lossError is why something was lost.
type lossError struct{ why error }

func lost(why error) error {
	if errors.Is(why, ErrLost) {
		return why
	}
	return &lossError{why}
}

// Error says why.
func (e *lossError) Error() string { return ErrLost.Error() + ": " + e.why.Error() }

// Unwrap gives ErrLost and the reason.
func (e *lossError) Unwrap() []error { return []error{ErrLost, e.why} }

// Why a key of ours is no longer ours.
var (
	errKeyGone     = errors.New("its key was deleted")
	errOverwritten = errors.New("its key was overwritten by somebody else")
	errLeaseGone   = errors.New("its lease has ended")
)

// closedError is the cause of what was ended on purpose.
func closedError(what string) error { return fmt.Errorf("lock: %w", errs.ClosedError(what)) }

// cleanedUpError is an error of a request whose outcome is of no matter any more: whatever it may have left behind is removed.
type cleanedUpError struct{ err error }

// Error is that of the request.
func (e *cleanedUpError) Error() string {
	return strings.ReplaceAll(e.err.Error(), errs.UnknownOutcome.Error()+": ", "")
}

// Is hides that the outcome was unknown.
func (e *cleanedUpError) Is(target error) bool {
	return target != errs.UnknownOutcome && errors.Is(e.err, target)
}

// As finds what the error holds.
func (e *cleanedUpError) As(target any) bool { return errors.As(e.err, target) }
