package cache

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// ErrStale means that the state of a [Replica] is older than [WithMaxStaleness] allows.
var ErrStale = errors.New("staler than allowed")

// Conditions shared with the other packages; the values are identical. Reads also return errors
// that match kv.ErrNotFound and kv.ErrDecode.
var (
	// ErrInvalid means that an argument is invalid. Nothing was sent, except by GetAtLeast, which
	// must compare the revision with etcd's.
	ErrInvalid = errs.Invalid
	// ErrClosed means that the cache or its client is closed.
	ErrClosed = errs.Closed
	// ErrUnavailable means that etcd could not be reached, did not answer or has no quorum.
	ErrUnavailable = errs.Unavailable
	// ErrPermission means that the user may not read or watch the keys below the dir.
	ErrPermission = errs.Permission
)

// opError wraps err as an error of this package. key is relative to the dir; the error contains the
// dir.
func (d *watchedDir) opError(op, key string, err error) error { return opError(op, d.prefix+key, err) }

// closedError returns an error that matches ErrClosed and says whether a cache or a replica is
// closed.
func (d *watchedDir) closedError() error { return errs.ClosedError(d.kind) }

// opError wraps err as an error of this package. NotApplied is true, because the operations of this
// package change nothing in etcd.
func opError(op, key string, err error) error {
	return &errs.Error{Pkg: "cache", Op: op, Key: key, NotApplied: true, Err: err}
}

// staleError returns the error for a read that would be older than allowed.
func staleError(age, bound time.Duration, cause error) error {
	const precision = 10 * time.Millisecond
	err := fmt.Errorf("%w: %v old, the bound is %v", ErrStale, age.Round(precision), bound)
	if cause != nil {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// decodeError wraps a codec's error but omits its text, which may quote the value.
type decodeError struct {
	rev   int64
	cause error
}

// Error returns the revision of the value and a description of the error.
func (e *decodeError) Error() string {
	return kv.ErrDecode.Error() + ": revision " + strconv.FormatInt(e.rev, 10) + ": " + errs.DescribeCodecError(e.cause)
}

// Unwrap returns kv.ErrDecode and the codec's error.
func (e *decodeError) Unwrap() []error { return []error{kv.ErrDecode, e.cause} }
