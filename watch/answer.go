package watch

import (
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// cancelResponse returns the response with which etcd cancels or refuses a watch.
func cancelResponse(resp *pb.WatchResponse) response {
	out := response{header: resp.GetHeader(), compactRevision: resp.GetCompactRevision(), err: errStreamEnded}
	switch cause := resp.GetCancelReason(); {
	case out.compactRevision > 0:
		out.err = rpctypes.ErrCompacted
	case cause != "":
		out.err = rpctypes.Error(errors.New(cause))
	}
	return out
}

// response is one response of etcd to one watch.
type response struct {
	header          *pb.ResponseHeader
	created         bool // the watch is open
	fragment        bool // a fragment, with the complete revisions only; may have no events
	events          []*clientv3.Event
	completeAt      time.Time // of progress: every change made by then was delivered; zero if unknown
	compactRevision int64     // the oldest revision that etcd still has, if the watch needs older ones
	err             error     // the error with which the watch ended
}

// endError returns the error with which the watch ended, or nil if it continues. ok is false if the
// channel was closed.
func (r *response) endError(ok bool) error {
	switch {
	case !ok:
		return errStreamEnded
	case r.compactRevision > 0:
		return &compactedError{r.compactRevision}
	}
	return r.err
}

// checkConfirmation returns an error unless r is the confirmation of the watch. It must be called
// with the first response of a watch.
func (r *response) checkConfirmation(ok bool) error {
	switch err := r.endError(ok); {
	case err != nil && ok && r.compactRevision == 0 && r.header != nil:
		return &refusedError{err}
	case err != nil:
		return err
	case !r.created || r.header.GetRevision() == 0:
		return fmt.Errorf("%w: the first answer does not confirm the watch", errStreamEnded)
	}
	return nil
}

// isProgress reports whether r is a progress report: nothing else has changed up to its revision.
func (r *response) isProgress() bool {
	return r.err == nil && !r.created && !r.fragment && len(r.events) == 0 && r.header.GetRevision() != 0
}
