package cache

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// ErrStale means that what a [Replica] knows is older than [WithMaxStaleness] allows.
var ErrStale = errors.New("staler than allowed")

// The conditions shared with the other packages; the values are the same everywhere. Besides them, reads match
// kv.ErrNotFound and kv.ErrDecode.
var (
	// ErrInvalid means that the arguments were refused before anything was sent.
	ErrInvalid = errs.Invalid
	// ErrClosed means that the cache, or the client below it, is closed.
	ErrClosed = errs.Closed
	// ErrUnavailable means that etcd, or a quorum of it, did not answer or could not be reached.
	ErrUnavailable = errs.Unavailable
	// ErrPermission means that the user may not read, or watch, what lies below the dir.
	ErrPermission = errs.Permission
)

// fail gives an error the form of all errors of this package. key is relative to the dir; the error names it with the dir.
func (f *feed) fail(op, key string, err error) error { return fail(op, f.prefix+key, err) }

// closedError says what is closed.
func (f *feed) closedError() error { return errs.ClosedError(f.what) }

// fail gives an error the form of all errors of this package. Nothing here ever changes anything in etcd.
func fail(op, key string, err error) error {
	return &errs.Error{Pkg: "cache", Op: op, Key: key, Unchanged: true, Err: err}
}

// reason is err without the words of another package for its call.
func reason(err error) error {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e.Err
	}
	return err
}

// tooOld is the error of a read that would be older than allowed.
func tooOld(age, bound time.Duration, why error) error {
	const grain = 10 * time.Millisecond
	err := fmt.Errorf("%w: %v old, the bound is %v", ErrStale, age.Round(grain), bound)
	if why != nil {
		err = fmt.Errorf("%w: %w", err, why)
	}
	return err
}

// decodeError is a codec's error without its text, which may quote the value.
type decodeError struct {
	rev   int64
	cause error
}

// Error names the revision of the value, and says what is wrong with it.
func (e *decodeError) Error() string {
	return kv.ErrDecode.Error() + ": revision " + strconv.FormatInt(e.rev, 10) + ": " + errs.DescribeCodecError(e.cause)
}

// Unwrap gives kv.ErrDecode and the codec's error.
func (e *decodeError) Unwrap() []error { return []error{kv.ErrDecode, e.cause} }
