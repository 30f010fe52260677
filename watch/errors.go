package watch

import (
	"errors"
	"fmt"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// The conditions that end a watch, to be matched with errors.Is. All but ErrHistoryRewritten are shared with the other
// packages of etcdkit.
var (
	ErrInvalid    = errs.Invalid
	ErrClosed     = errs.Closed
	ErrPermission = errs.Permission
	ErrCompacted  = errs.Compacted
	// ErrUnavailable means that a watch is not live. It ends no watch.
	ErrUnavailable = errs.Unavailable
	// ErrHistoryRewritten means that the cluster's history is not the one that the watch has followed, or that
	// WithAfter speaks of: the cluster was wiped, or restored from a backup.
	ErrHistoryRewritten = errors.New("watch: history rewritten")
)

// CompactedError says that changes after After and before Oldest are gone. It matches [ErrCompacted].
type CompactedError struct {
	After  int64 // everything up to here was delivered
	Oldest int64 // the first revision whose changes etcd still has
}

// Error tells both revisions.
func (e *CompactedError) Error() string {
	return fmt.Sprintf("%v: the changes after revision %d and before %d are gone", ErrCompacted, e.After, e.Oldest)
}

// Unwrap gives ErrCompacted.
func (e *CompactedError) Unwrap() error { return ErrCompacted }

// PanicError is a panic of a subscription's handler.
type PanicError struct {
	Value any    // what the handler panicked with
	Stack []byte // where
}

// Error tells the value.
func (e *PanicError) Error() string { return fmt.Sprintf("handler panicked: %v", e.Value) }

// Unwrap gives the value, where it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// fail gives an error the form of all errors of this package.
func fail(op string, sel Selector, err error) error {
	if e, ok := err.(*errs.Error); ok && e.Pkg == "watch" && e.Key == sel.String() { //nolint:errorlint // as it is, not what it wraps
		return err
	}
	return &errs.Error{Pkg: "watch", Op: op, Key: sel.String(), Unchanged: true, Err: err}
}

// errClosed is the end of all watches of a Watcher, and of new ones.
var errClosed = errs.ClosedError("watcher")

// subscriptionClosed is the error of whoever waits for a subscription that has ended, with the error of its end, if any.
func subscriptionClosed(cause error) error {
	closed := errs.ClosedError("subscription")
	if e, ok := errors.AsType[*errs.Error](cause); ok {
		return fmt.Errorf("%w: %w", closed, e.Err)
	}
	return closed
}

// Why a server-side watch ended. None of these reaches a caller as the end of a watch.
var (
	errEnded    = errors.New("the stream ended")
	errNoAnswer = errors.New("no answer")
	errLostRace = errors.New("the list is older than the watch")

	errOutOfOrder = errors.New("the events of a response are out of order")
)

// refusal is an error that came in place of a confirmation that the watch is open.
type refusal struct{ err error }

func (e *refusal) Error() string { return e.err.Error() }

// Unwrap gives the error itself.
func (e *refusal) Unwrap() error { return e.err }

// compaction is etcd's word that the history from the revision asked for is gone.
type compaction struct{ oldest int64 }

func (e *compaction) Error() string { return "compacted" }

// final returns the condition that makes err the end of a watch, and nil where trying again is right. An answer that a
// watch is not permitted counts only in place of its confirmation: client/v3 may hand a refusal of one watch
// to another one that shares its stream.
func final(err error) error {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		return nil
	}
	if _, condition := retry.Classify(r.err, false); errors.Is(condition, errs.Permission) {
		return retry.Explain(r.err, condition)
	}
	return nil
}
