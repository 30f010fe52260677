package discovery

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// The conditions of this package. An error that names one matches it with errors.Is.
var (
	// ErrNoInstance means that a service has no instance that could be picked.
	ErrNoInstance = errors.New("no instance")
	// ErrTaken means that somebody else has registered an instance with this ID; see [TakenError].
	ErrTaken = errors.New("instance id taken")
)

// The conditions shared with the other packages; the values are the same everywhere.
var (
	// ErrInvalid means that the arguments were refused before anything was sent.
	ErrInvalid = errs.Invalid
	// ErrTooLarge means that a limit was passed. It also matches ErrInvalid.
	ErrTooLarge = errs.TooLarge
	// ErrUnavailable means that etcd, or a quorum of it, did not answer or could not be reached.
	ErrUnavailable = errs.Unavailable
	// ErrPermission means that the user may not read or write the keys of the service.
	ErrPermission = errs.Permission
	// ErrClosed means that the registry, the view or the client below it is closed.
	ErrClosed = errs.Closed
)

// TakenError says who has the ID that was to be registered. It matches [ErrTaken].
type TakenError struct {
	Holder Instance // as it is in etcd; only Service and ID where that cannot be read
	Lease  clientv3.LeaseID
	// Renewed reports whether the lease was seen to be renewed: the holder lives. Without a lease the key stays for ever,
	// and counts as renewed. A new leader of etcd, which gives each lease its full TTL again, looks like a renewal.
	Renewed bool
	// Remaining is how long the lease had left at the last look.
	Remaining time.Duration

	local    bool // the holder is a registration of the same client
	replaced bool // it was not taken before
}

// Error names the holder's address and what is known of its life.
func (e *TakenError) Error() string {
	text := "instance id taken"
	if e.Holder.Host != "" {
		text += " by " + e.Holder.Addr()
	}
	if !e.Holder.Registered.IsZero() {
		text += ", registered at " + e.Holder.Registered.UTC().Format(time.RFC3339)
	}
	switch {
	case e.local:
		return text + " by this process"
	case e.replaced:
		return text + " meanwhile"
	case e.Lease == 0:
		return text + ": its key has no lease and stays until it is deleted"
	case e.Renewed:
		return text + ": its lease " + strconv.FormatInt(int64(e.Lease), 16) + " is being renewed"
	}
	return fmt.Sprintf("%s: its lease %x was not seen to be renewed and has %v left", text, int64(e.Lease), e.Remaining.Round(time.Second))
}

// Unwrap gives ErrTaken.
func (e *TakenError) Unwrap() error { return ErrTaken }

// opError gives an error the form of all errors of this package.
func opError(op, key string, err error) error {
	return &errs.Error{Pkg: "discovery", Op: op, Key: key, Unchanged: errs.Unchanged(err), Err: err}
}

// reason is err without the words of another package for its call.
func reason(err error) error {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e.Err
	}
	return err
}

// invalid is a refusal.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errs.Invalid, fmt.Errorf(format, args...))
}
