package watch

import (
	"errors"
	"fmt"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/watchstream"
)

// The errors of this package, to be matched with errors.Is. All except ErrHistoryRewritten are
// shared with the other packages of etcdkit.
var (
	// ErrInvalid means that an argument is invalid. Nothing was sent.
	ErrInvalid = errs.Invalid
	// ErrClosed means that the watcher or its client is closed.
	ErrClosed = errs.Closed
	// ErrPermission means that the user may not read the keys.
	ErrPermission = errs.Permission
	// ErrCompacted means that changes which the watch needs were compacted. See CompactedError.
	ErrCompacted = errs.Compacted
	// ErrUnavailable means that a watch is not live. It does not end a watch.
	ErrUnavailable = errs.Unavailable
	// ErrHistoryRewritten means that the cluster's history is not the one that the watch has
	// followed, or to which the revision of WithAfter belongs: the cluster was wiped or restored
	// from a backup.
	ErrHistoryRewritten = errors.New("watch: history rewritten")
)

// CompactedError reports that the changes after After and before Oldest were compacted. It matches
// [ErrCompacted].
type CompactedError struct {
	After  int64 // every change up to this revision was delivered
	Oldest int64 // the first revision whose changes etcd still has
}

// Error returns a message with both revisions.
func (e *CompactedError) Error() string {
	return fmt.Sprintf("%v: changes after revision %d and before %d are no longer available", ErrCompacted, e.After, e.Oldest)
}

// Unwrap returns ErrCompacted.
func (e *CompactedError) Unwrap() error { return ErrCompacted }

// PanicError reports a panic in the handler of a subscription.
type PanicError struct {
	Value any    // the value passed to panic
	Stack []byte // the stack of the panic
}

// Error returns a message with the value.
func (e *PanicError) Error() string { return fmt.Sprintf("handler panicked: %v", e.Value) }

// Unwrap returns the value if it is an error, otherwise nil.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// opError wraps err in the error type of this package, unless it already is one for sel.
func opError(op string, sel Selector, err error) error {
	if e, ok := err.(*errs.Error); ok && e.Pkg == "watch" && e.Key == sel.String() { //nolint:errorlint // err itself
		return err
	}
	return &errs.Error{Pkg: "watch", Op: op, Key: sel.String(), NotApplied: true, Err: err}
}

// errClosed ends the watches of a closed Watcher and is returned by new ones.
var errClosed = errs.ClosedError("watcher")

// subscriptionClosed returns the error for callers that wait for a subscription that has ended.
// cause is the subscription's error, if any.
func subscriptionClosed(cause error) error {
	closed := errs.ClosedError("subscription")
	if e, ok := errors.AsType[*errs.Error](cause); ok {
		return fmt.Errorf("%w: %w", closed, e.Err)
	}
	return closed
}

// Errors that end an attempt to list or to read history. None of them ends the consumer's watch.
var (
	errListTooOld = errors.New("the list is older than the watch")
	errOutOfOrder = errors.New("the events of a response are out of order")
)

// permanentError returns the error with which err ends a watch, or nil if a retry is right. A
// permission error counts only instead of a confirmation: client/v3 may report the refusal of one
// watch to another one on the same stream.
func permanentError(err error) error {
	r, ok := errors.AsType[*watchstream.RefusedError](err)
	if !ok {
		return nil
	}
	if _, condition := retry.Classify(r.Err, false); errors.Is(condition, errs.Permission) {
		return retry.WithCondition(r.Err, condition)
	}
	return nil
}

// consumerError is an error returned by the consumer, as opposed to one of the watch.
type consumerError struct{ err error }

func (e *consumerError) Error() string { return e.err.Error() }

// Unwrap returns the consumer's error.
func (e *consumerError) Unwrap() error { return e.err }

func fromConsumer(err error) bool {
	_, ok := errors.AsType[*consumerError](err)
	return ok
}
