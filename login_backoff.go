package etcdkit

import (
	"errors"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkit/etcdkit/internal/outage"
)

// The pause between two logins with credentials that etcd refuses.
const (
	minLoginBackoff = time.Second
	maxLoginBackoff = 30 * time.Second
)

// refusedLogin puts off logins with credentials that etcd has refused. Whatever the client does in the background would
// otherwise log in again and again, and a password costs the server tens of milliseconds of CPU each time.
type refusedLogin struct {
	credentials Secret // which were refused
	err         error  // nil: they were not
	backoff     time.Duration
	until       time.Time
	log         outage.Log
}

// current returns the error of the last login while one with the same credentials is put off, else nil.
func (r *refusedLogin) current(credentials Secret, now time.Time) error {
	if r.err != nil && r.credentials == credentials && now.Before(r.until) {
		return r.err
	}
	return nil
}

// update takes the result of a login and reports which record is to be logged.
func (r *refusedLogin) update(credentials Secret, err error, now time.Time) (begins, ends bool) {
	switch {
	case err == nil:
		r.err = nil
	case !errors.Is(rpctypes.Error(err), rpctypes.ErrAuthFailed):
		return false, false // it says nothing about the credentials
	case r.err == nil || r.credentials != credentials:
		r.credentials, r.err, r.backoff = credentials, err, minLoginBackoff
	default:
		r.err, r.backoff = err, min(2*r.backoff, maxLoginBackoff)
	}
	half := r.backoff / 2
	r.until = now.Add(half + rand.N(half+1))
	begins, ends, _ = r.log.Update(r.err != nil, now)
	return begins, ends
}
