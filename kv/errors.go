package kv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Errors of this package. Test for them with errors.Is.
var (
	// ErrNotFound means that the key does not exist.
	ErrNotFound = errors.New("key not found")
	// ErrExists means that a key to be created exists already.
	ErrExists = errors.New("key exists")
	// ErrConflict means that the key did not meet the condition of the write. See ConflictError.
	ErrConflict = errors.New("changed meanwhile")
	// ErrGuard means that etcd refused a write because what a Guarded stands for was lost. The
	// error also matches the error of the owner, such as lock.ErrLost.
	ErrGuard = errors.New("guard does not hold")
	// ErrDecode means that the codec cannot decode a stored value. Use errors.As to get the codec's
	// own error, which is not in the text because it may quote the value.
	ErrDecode = errors.New("value cannot be decoded")
	// ErrSkipUpdate, returned by the function given to Update, leaves the key unchanged. Update
	// then returns the current entry and no error.
	ErrSkipUpdate = errors.New("skip this update")
)

// Errors shared with the other packages of the module, which use the same values.
var (
	// ErrInvalid means that the arguments are invalid. Nothing was sent.
	ErrInvalid = errs.Invalid
	// ErrTooLarge means that one of the Limits was exceeded. It also matches ErrInvalid.
	ErrTooLarge = errs.TooLarge
	// ErrUnavailable means that etcd, or a quorum of it, did not respond or could not be reached.
	ErrUnavailable = errs.Unavailable
	// ErrCompacted means that the requested revision was compacted.
	ErrCompacted = errs.Compacted
	// ErrUnknownOutcome means that a write may or may not have been applied, or may still be
	// applied.
	ErrUnknownOutcome = errs.UnknownOutcome
)

// ConflictError is the error of a write whose condition did not hold. It matches [ErrConflict].
type ConflictError struct {
	Key string // as passed to the call
	// Want is the revision that the write required, or 0 if it required a value.
	Want int64
	// Have is the revision at which the key was last changed, or 0 if it does not exist.
	Have int64
}

// Error returns a text with the revisions.
func (e *ConflictError) Error() string {
	text := ErrConflict.Error()
	if e.Want != 0 {
		text += ": wanted revision " + strconv.FormatInt(e.Want, 10)
	}
	if e.Have == 0 {
		return text + ": the key does not exist"
	}
	return text + ": found revision " + strconv.FormatInt(e.Have, 10)
}

// Unwrap returns ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// BatchError is the error of a batch that failed. The first Done operations are applied. If Err
// matches [ErrUnknownOutcome], some of the others may have been applied. Otherwise [Store.Batch]
// applied none of them. [Store.BatchEach] with [WithInFlight] may have applied later ones; its
// results tell which.
type BatchError struct {
	Done     int
	Revision int64 // of the last applied transaction, or 0
	Err      error
}

// Error returns a text with the number of applied operations and the cause.
func (e *BatchError) Error() string {
	return fmt.Sprintf("batch stopped after %d operations: %v", e.Done, e.Err)
}

// Unwrap returns Err.
func (e *BatchError) Unwrap() error { return e.Err }

// opError returns the error of an operation on a relative key that provably changed nothing. The
// error contains the absolute key, so that it shows a wrong namespace.
func (s *Store) opError(op, key string, err error) error { return opError(op, s.ns+key, err) }

// opError returns the error of an operation that provably changed nothing.
func opError(op, key string, err error) error {
	return &errs.Error{Pkg: "kv", Op: op, Key: key, NotApplied: true, Err: err}
}

// waitError returns the error of a call whose context ended while it waited for another call of
// this process. waitsForEtcd reports whether the other call only waits for etcd.
func (c *core) waitError(ctx context.Context, what string, waitsForEtcd bool) error {
	err := fmt.Errorf("%w while waiting for %s", retry.ContextError(ctx), what)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if !waitsForEtcd && wire.Explain(c.cli) == nil {
		return fmt.Errorf("%w: endpoints %s", err, strings.Join(c.cli.Endpoints(), ", "))
	}
	return fmt.Errorf("%w: %w: %w", errs.Unavailable, err, wire.ExplainTimeout(c.cli, ""))
}

// codecError is a codec's error without its text, which may quote the value.
type codecError struct {
	what     string
	sentinel error // ErrDecode or ErrInvalid
	cause    error
}

// Error returns a text without the value. It describes errors of known types.
func (e *codecError) Error() string {
	return fmt.Sprintf("%v: %s: %s", e.sentinel, e.what, describeCodecError(e.cause))
}

func describeCodecError(err error) string {
	if hidden, ok := errors.AsType[*redactedError](err); ok {
		return hidden.Error()
	}
	return errs.DescribeCodecError(err)
}

// Unwrap returns the sentinel error and the codec's error.
func (e *codecError) Unwrap() []error { return []error{e.sentinel, e.cause} }
