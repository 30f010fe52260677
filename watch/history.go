package watch

import (
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// historyID identifies a history. A wiped cluster may keep its cluster ID, but raft terms only rise
// within one history.
type historyID struct {
	number        uint64 // as in position
	cluster, term uint64
}

func newHistoryID(hdr *pb.ResponseHeader, number uint64) *historyID {
	return &historyID{number: number, cluster: hdr.GetClusterId(), term: hdr.GetRaftTerm()}
}

// mismatched reports whether a response may come from another history. A response from a lagging
// member may also mismatch.
func (id *historyID) mismatched(hdr *pb.ResponseHeader) bool {
	return id != nil && (hdr.GetClusterId() != id.cluster || hdr.GetRaftTerm() < id.term)
}

// errHistoryChanged means that the broadcaster now follows another history than the reader.
var errHistoryChanged = errors.New("the history is another one now")

// errHistoryMismatch means that a member is cut off or has another history. The broadcaster finds
// out which.
var errHistoryMismatch = errors.New("the member may have another history")

// check returns nil if the response belongs to the history that its reader follows. id must be
// loaded after the response has arrived.
func (id *historyID) check(hdr *pb.ResponseHeader, history uint64) error {
	switch {
	case id == nil || id.number != history:
		return errHistoryChanged
	case id.mismatched(hdr):
		return errHistoryMismatch
	}
	return nil
}
