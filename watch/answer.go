package watch

import (
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ending is how etcd has ended, or refused, a watch.
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

// answer is what etcd says to one watch.
type answer struct {
	header    *pb.ResponseHeader
	created   bool // it is open
	partial   bool // a fragment, with the events of the revisions that are complete; there may be none
	events    []*clientv3.Event
	asOf      time.Time // of progress: everything that had happened by then was delivered; zero if that is not known
	compacted int64     // the oldest revision that etcd still has, where it has not what the watch needs
	err       error     // the end of the watch
}

// failure is the end of a watch, nil where it goes on; ok is false after the channel was closed.
func (a *answer) failure(ok bool) error {
	switch {
	case !ok:
		return errEnded
	case a.compacted > 0:
		return &compaction{a.compacted}
	}
	return a.err
}

// confirmed checks that the first answer of a watch is its confirmation.
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

// progress reports whether the answer says that nothing else has happened up to its revision.
func (a *answer) progress() bool {
	return a.err == nil && !a.created && !a.partial && len(a.events) == 0 && a.header.GetRevision() != 0
}
