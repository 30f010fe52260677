package lease

import (
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// Info describes a lease.
type Info struct {
	ID clientv3.LeaseID `json:"id"`
	// Granted is the TTL that etcd granted, which may be longer than the one requested.
	Granted time.Duration `json:"granted"`
	// Remaining is the minimum time that the lease still lives, unless it is revoked. It counts
	// from the return of the call.
	Remaining time.Duration `json:"remaining"`
	// RaftTerm is the Raft term of the response. A new leader restarts the TTL of every lease. Only
	// Describe and TimeToLive set it.
	RaftTerm uint64 `json:"raftTerm,omitempty"`
	// Keys lists the keys on the lease, relative to the namespace of the manager. Keys outside the
	// namespace and the library's own keys are omitted. Only Describe sets it.
	Keys []string `json:"keys,omitempty"`
}

// isNotFound reports whether err says that the lease does not exist in etcd.
func isNotFound(err error) bool {
	if err == nil {
		return false
	}
	_, condition := retry.Classify(err, false)
	return errors.Is(condition, errs.LeaseNotFound)
}

// leaseResult is the result of a grant or a renewal.
type leaseResult struct {
	id     clientv3.LeaseID
	sentAt time.Time // when the request was sent
	ttl    time.Duration
}

// info returns the result as an Info. Remaining is computed from the current time.
func (r leaseResult) info() Info {
	return Info{ID: r.id, Granted: r.ttl, Remaining: max(r.ttl-time.Since(r.sentAt), 0)}
}
