package watch

import (
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// lineage tells histories apart: two of a cluster that was wiped have the same cluster ID, but raft terms only rise within
// one.
type lineage struct {
	epoch         uint64 // rises when history is rewritten
	cluster, term uint64
}

// at is which history this is.
func (l *lineage) at() uint64 {
	if l == nil {
		return 0
	}
	return l.epoch
}

func lineageOf(hdr *pb.ResponseHeader, epoch uint64) *lineage {
	return &lineage{epoch: epoch, cluster: hdr.GetClusterId(), term: hdr.GetRaftTerm()}
}

// foreign reports whether an answer seems to come from another history. One from a member that lags may seem so.
func (l *lineage) foreign(hdr *pb.ResponseHeader) bool {
	return l != nil && (hdr.GetClusterId() != l.cluster || hdr.GetRaftTerm() < l.term)
}

// errOtherHistory interrupts whatever reads the history of a hub that has gone over to another one.
var errOtherHistory = errors.New("the history is another one now")

// errOtherMember is a member that is cut off, or of another history. The hub finds out which.
var errOtherMember = errors.New("the member may have another history")

// kin is nil for an answer from the history that its reader follows: l, as it was loaded after the answer, is still that of
// the epoch, and the answer does not look foreign to it.
func (l *lineage) kin(hdr *pb.ResponseHeader, epoch uint64) error {
	switch {
	case l.at() != epoch:
		return errOtherHistory
	case l.foreign(hdr):
		return errOtherMember
	}
	return nil
}
