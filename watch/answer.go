package watch

import (
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ending returns the answer for a response with which etcd cancels or refuses a watch.
func ending(resp *pb.WatchResponse) answer {
	a := answer{header: resp.GetHeader(), compacted: resp.GetCompactRevision(), err: errEnded}
	switch reason := resp.GetCancelReason(); {
	case a.compacted > 0:
		a.err = rpctypes.ErrCompacted
	case reason != "":
		a.err = rpctypes.Error(errors.New(reason))
	}
	return a
}

// answer is one response of etcd to one watch.
type answer struct {
	header    *pb.ResponseHeader
	created   bool // the watch is open
	partial   bool // a fragment, with the complete revisions only; may have no events
	events    []*clientv3.Event
	asOf      time.Time // of progress: every change made by then was delivered; zero if unknown
	compacted int64     // the oldest revision that etcd still has, if the watch needs older ones
	err       error     // why the watch ended
}

// failure returns the error with which the watch ended, or nil if it continues. ok is false if the
// channel was closed.
func (a *answer) failure(ok bool) error {
	switch {
	case !ok:
		return errEnded
	case a.compacted > 0:
		return &compaction{a.compacted}
	}
	return a.err
}

// confirmed returns an error unless a is the confirmation of the watch. It must be called with the
// first answer of a watch.
func (a *answer) confirmed(ok bool) error {
	switch err := a.failure(ok); {
	case err != nil && ok && a.compacted == 0 && a.header != nil:
		return &refusal{err}
	case err != nil:
		return err
	case !a.created || a.header.GetRevision() == 0:
		return fmt.Errorf("%w: the first answer does not confirm the watch", errEnded)
	}
	return nil
}

// progress reports whether a is a progress report: nothing else has changed up to its revision.
func (a *answer) progress() bool {
	return a.err == nil && !a.created && !a.partial && len(a.events) == 0 && a.header.GetRevision() != 0
}
