package lease

import (
	"errors"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// Info is what is known of a lease.
type Info struct {
	ID clientv3.LeaseID `json:"id"`
	// Granted is the TTL that etcd granted, which may be longer than what was asked for.
	Granted time.Duration `json:"granted"`
	// Remaining is how long the lease will live at least, if it is not revoked, as of the return of the call.
	Remaining time.Duration `json:"remaining"`
	// RaftTerm is the term in which etcd has told that: with each new leader a lease begins its TTL anew. Only Describe and
	// TimeToLive fill it in.
	RaftTerm uint64 `json:"raftTerm,omitempty"`
	// Keys are those on the lease, as the manager takes them; keys outside of its namespace, and the library's own, are
	// left out. Only Describe fills it in.
	Keys []string `json:"keys,omitempty"`
}

// formatLeaseID is a lease as errors show it, which is how etcdctl does.
func formatLeaseID(id clientv3.LeaseID) string { return strconv.FormatInt(int64(id), 16) }

// isNotFound reports whether err says that etcd has no such lease.
func isNotFound(err error) bool {
	if err == nil {
		return false
	}
	_, condition := retry.Classify(err, false)
	return errors.Is(condition, errs.LeaseNotFound)
}

// leaseResult is a lease as an answer gave it.
type leaseResult struct {
	id     clientv3.LeaseID
	sentAt time.Time // when the request was sent that was answered
	ttl    time.Duration
}

// info is the term as of now.
func (r leaseResult) info() Info {
	return Info{ID: r.id, Granted: r.ttl, Remaining: max(r.ttl-time.Since(r.sentAt), 0)}
}
