package discovery

import (
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Errors of this package.
var (
	// ErrNoInstance means that no instance can be picked.
	ErrNoInstance = errors.New("no instance")
	// ErrTaken means that another process has registered an instance with this ID; see TakenError.
	ErrTaken = errors.New("instance id taken")
)

// Conditions shared with the other packages; the values are identical.
var (
	// ErrInvalid means that an argument is invalid. Nothing was sent.
	ErrInvalid = errs.Invalid
	// ErrTooLarge means that a limit was exceeded. It also matches ErrInvalid.
	ErrTooLarge = errs.TooLarge
	// ErrUnavailable means that etcd could not be reached or has no quorum.
	ErrUnavailable = errs.Unavailable
	// ErrPermission means that the user may not read or write the keys of the service.
	ErrPermission = errs.Permission
	// ErrClosed means that the registry, the view or the client is closed.
	ErrClosed = errs.Closed
)

// A TakenError describes the holder of an ID that could not be registered. It matches [ErrTaken].
type TakenError struct {
	Holder Instance // only Service and ID if the entry cannot be decoded
	Lease  clientv3.LeaseID
	// Renewed reports whether the holder is alive, because its lease was renewed. A key without a
	// lease never expires and counts as renewed.
	Renewed bool
	// Remaining is how long the lease had left when it was last polled.
	Remaining time.Duration

	local    bool // the holder is a registration of this client
	replaced bool // the ID was taken after this client had registered it
}

// Error names the holder and says whether it is alive.
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
		return text + " since it was registered here"
	case e.Lease == 0:
		return text + ": its key has no lease and never expires"
	case e.Renewed:
		return text + ": its lease " + wire.FormatLeaseID(e.Lease) + " is being renewed"
	}
	return fmt.Sprintf("%s: its lease %x has not been renewed yet and has %v left", text, int64(e.Lease), e.Remaining.Round(time.Second))
}

// Unwrap returns ErrTaken.
func (e *TakenError) Unwrap() error { return ErrTaken }

// opError wraps the error of an operation.
func opError(op, key string, err error) error {
	return &errs.Error{Pkg: "discovery", Op: op, Key: key, NotApplied: errs.NotApplied(err), Err: err}
}
