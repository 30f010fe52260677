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

// The conditions of this package. An error that names one matches it with errors.Is.
var (
	// ErrNotFound means that there is no such key.
	ErrNotFound = errors.New("key not found")
	// ErrExists means that the key to be created is there already.
	ErrExists = errors.New("key exists")
	// ErrConflict means that the key no longer is what the write was conditional on. See [ConflictError].
	ErrConflict = errors.New("changed meanwhile")
	// ErrGuard means that what a [Guarded] holds was lost, so that etcd refused the write. The error also matches the
	// owner's own condition, such as lock.ErrLost.
	ErrGuard = errors.New("guard does not hold")
	// ErrDecode means that a stored value is not what the codec understands. The codec's own error can be had with
	// errors.As; it is not in the text, since it may quote the value.
	ErrDecode = errors.New("value cannot be decoded")
	// ErrSkipUpdate, returned by the function given to Update, leaves the key as it is: Update then returns the current
	// entry and no error.
	ErrSkipUpdate = errors.New("skip this update")
)

// The conditions shared with the other packages; the values are the same everywhere.
var (
	// ErrInvalid means that the arguments were refused before anything was sent.
	ErrInvalid = errs.Invalid
	// ErrTooLarge means that one of [Limits] was passed. It also matches ErrInvalid.
	ErrTooLarge = errs.TooLarge
	// ErrUnavailable means that etcd, or a quorum of it, did not answer or could not be reached.
	ErrUnavailable = errs.Unavailable
	// ErrCompacted means that the revision asked for is no longer in etcd's history.
	ErrCompacted = errs.Compacted
	// ErrUnknownOutcome means that a write may have been applied, or not, or may yet be.
	ErrUnknownOutcome = errs.UnknownOutcome
)

// ConflictError is a write whose key was not what it was conditional on. It matches [ErrConflict].
type ConflictError struct {
	Key string // as it was given
	// Want is the revision that the write was conditional on, 0 when it was conditional on a value.
	Want int64
	// Have is the revision at which the key was last changed, 0 when it is gone.
	Have int64
}

// Error names the revisions.
func (e *ConflictError) Error() string {
	text := ErrConflict.Error()
	if e.Want != 0 {
		text += ": wanted revision " + strconv.FormatInt(e.Want, 10)
	}
	if e.Have == 0 {
		return text + ": the key is gone"
	}
	return text + ": found revision " + strconv.FormatInt(e.Have, 10)
}

// Unwrap gives ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// BatchError is a batch that stopped. The first Done operations are applied; whether the ones from there on are depends
// on Err: they are not, unless it matches [ErrUnknownOutcome].
type BatchError struct {
	Done     int
	Revision int64 // of the last transaction that was applied, 0 if none was
	Err      error
}

// Error says how far the batch came, and why no further.
func (e *BatchError) Error() string {
	return fmt.Sprintf("batch stopped after %d operations: %v", e.Done, e.Err)
}

// Unwrap gives the reason.
func (e *BatchError) Unwrap() error { return e.Err }

// fail is the error of an operation on a relative key that provably changed nothing. It names the whole key, because the
// key is often not found where it is because the namespace is not what its caller thinks.
func (s *Store) fail(op, key string, err error) error { return fail(op, s.ns+key, err) }

// fail is the error of an operation that provably changed nothing.
func fail(op, key string, err error) error {
	return &errs.Error{Pkg: "kv", Op: op, Key: key, Unchanged: true, Err: err}
}

// waitError is the error of a call whose context ended while it waited for another call of this process. forEtcd says that
// the other call waits for etcd, and for nothing else.
func (c *core) waitError(ctx context.Context, what string, forEtcd bool) error {
	err := fmt.Errorf("%w while waiting for %s", retry.ContextError(ctx), what)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if !forEtcd && wire.Explain(c.cli) == nil {
		return fmt.Errorf("%w: endpoints %s", err, strings.Join(c.cli.Endpoints(), ", "))
	}
	return fmt.Errorf("%w: %w: %w", errs.Unavailable, err, wire.ExplainTimeout(c.cli, ""))
}

// codecError is a codec's error without its text, which may quote the value.
type codecError struct {
	what  string
	is    error // the condition
	cause error
}

// Error says what is wrong with the value, as far as the type of the codec's error tells.
func (e *codecError) Error() string {
	return fmt.Sprintf("%v: %s: %s", e.is, e.what, describeCodecError(e.cause))
}

func describeCodecError(err error) string {
	if hidden, ok := errors.AsType[*hiddenError](err); ok {
		return hidden.Error()
	}
	return errs.DescribeCodecError(err)
}

// Unwrap gives the condition and the codec's error.
func (e *codecError) Unwrap() []error { return []error{e.is, e.cause} }
