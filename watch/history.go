package watch

import (
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// historyID tells histories apart: two of a cluster that was wiped have the same cluster ID, but raft terms only rise within
// one.
type historyID struct {
	number        uint64 // as in positions
	cluster, term uint64
}

func newHistoryID(hdr *pb.ResponseHeader, number uint64) *historyID {
	return &historyID{number: number, cluster: hdr.GetClusterId(), term: hdr.GetRaftTerm()}
}

// mismatched reports whether a response seems to come from another history. One from a member that lags may seem so.
func (id *historyID) mismatched(hdr *pb.ResponseHeader) bool {
	return id != nil && (hdr.GetClusterId() != id.cluster || hdr.GetRaftTerm() < id.term)
}

// errOtherHistory interrupts whatever reads the history of a hub that has gone over to another one.
var errOtherHistory = errors.New("the history is another one now")

// errOtherMember is a member that is cut off, or of another history. The hub finds out which.
var errOtherMember = errors.New("the member may have another history")

// check returns nil if a response belongs to the history that its reader follows: id, as it was loaded after the response,
// is still that history, and the response does not mismatch it.
func (id *historyID) check(hdr *pb.ResponseHeader, history uint64) error {
	switch {
	case id == nil || id.number != history:
		return errOtherHistory
	case id.mismatched(hdr):
		return errOtherMember
	}
	return nil
}
