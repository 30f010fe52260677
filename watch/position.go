package watch

import (
	"cmp"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// A position describes which of the cluster's changes are complete: all up to revision rev of a
// history. The log of a broadcaster has a position, and so has each consumer. A consumer is missing
// what lies between the two.
//
// Histories are numbered from 1. The number rises whenever the cluster turns out to have another
// history. Revisions then start over, so revisions of different histories cannot be compared.
// Positions can: they are ordered by history first. The zero position is before all others.
//
// The following holds for every log and every consumer, because advance never goes back and
// span.logEntries checks the order of events:
//
//   - Its position never goes back.
//   - It moves to a revision only if every change up to that revision was appended to the log, or
//     delivered to the consumer, or lies in a gap that the consumer has crossed.
//   - The entries after the position of a log have later revisions, in rising order.
type position struct {
	history uint64
	rev     int64
}

// compare orders positions.
func (p position) compare(q position) int {
	return cmp.Or(cmp.Compare(p.history, q.history), cmp.Compare(p.rev, q.rev))
}

// reaches reports whether p is q or later: everything up to q is complete.
func (p position) reaches(q position) bool { return p.compare(q) >= 0 }

// nextRevision returns the first revision after p.
func (p position) nextRevision() int64 { return p.rev + 1 }

// atRevision returns revision rev of the history of p.
func (p position) atRevision(rev int64) position { return position{history: p.history, rev: rev} }

// advance returns the later of p and q.
func (p position) advance(q position) position {
	if p.reaches(q) {
		return p
	}
	return q
}

// nextHistory returns revision rev of the history that follows the one of p.
func (p position) nextHistory(rev int64) position {
	return position{history: p.history + 1, rev: rev}
}

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
var errHistoryChanged = errors.New("the history has changed")

// errHistoryMismatch means that a member is cut off or has another history. The broadcaster finds
// out which.
var errHistoryMismatch = errors.New("the member may have a different history")

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
