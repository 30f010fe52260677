package etcdkit

import (
	"errors"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdkit/etcdkit/internal/outage"
)

// Bounds of the pause between two logins with credentials that etcd rejects.
const (
	minLoginBackoff = time.Second
	maxLoginBackoff = 30 * time.Second
)

// refusedLogin postpones logins with credentials that etcd has rejected. Otherwise background work
// would log in again and again, and checking a password costs the server tens of milliseconds of
// CPU time.
type refusedLogin struct {
	credentials Secret // rejected last
	err         error  // nil: not rejected
	backoff     time.Duration
	until       time.Time
	log         outage.Log
}

// current returns the last error if a login with these credentials must be postponed, else nil.
func (r *refusedLogin) current(credentials Secret, now time.Time) error {
	if r.err != nil && r.credentials == credentials && now.Before(r.until) {
		return r.err
	}
	return nil
}

// update records the result of a login. It reports whether the start or the end of the rejections
// must be logged.
func (r *refusedLogin) update(credentials Secret, err error, now time.Time) (begins, ends bool) {
	switch {
	case err == nil:
		r.err = nil
	case !errors.Is(rpctypes.Error(err), rpctypes.ErrAuthFailed):
		return false, false // the error does not concern the credentials
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
