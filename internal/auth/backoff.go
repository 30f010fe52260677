package auth

import (
	"errors"
	"math/rand/v2"
	"time"
	"unique"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkit/etcdkit/internal/outage"
)

// Bounds of the pause between two logins with credentials that etcd rejects.
const (
	minBackoff = time.Second
	maxBackoff = 30 * time.Second
)

// rejectedCredentials postpones logins with credentials that etcd has rejected. Otherwise
// background work would log in again and again, and checking a password costs the server tens of
// milliseconds of CPU time.
type rejectedCredentials struct {
	credentials unique.Handle[string] // rejected last; fmt prints only its address
	err         error                 // nil: not rejected
	backoff     time.Duration
	retryAt     time.Time
	log         outage.Log
}

// current returns the error of the last login if one with these credentials must be postponed, else
// nil.
func (r *rejectedCredentials) current(credentials unique.Handle[string], now time.Time) error {
	if r.err != nil && r.credentials == credentials && now.Before(r.retryAt) {
		return r.err
	}
	return nil
}

// update records the result of a login. It reports whether the start or the end of the rejections
// must be logged.
func (r *rejectedCredentials) update(credentials unique.Handle[string], err error, now time.Time) (begins, ends bool) {
	switch {
	case err == nil:
		r.err = nil
	case !errors.Is(rpctypes.Error(err), rpctypes.ErrAuthFailed):
		return false, false // the error does not concern the credentials
	case r.err == nil || r.credentials != credentials:
		r.credentials, r.err, r.backoff = credentials, err, minBackoff
	default:
		r.err, r.backoff = err, min(2*r.backoff, maxBackoff)
	}
	half := r.backoff / 2
	r.retryAt = now.Add(half + rand.N(half+1))
	begins, ends, _ = r.log.Update(r.err != nil, now)
	return begins, ends
}
