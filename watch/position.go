package watch

import "cmp"

// A position describes which of the cluster's changes are complete: all up to revision rev of a
// history. The log of a broadcaster has a position, and so has each consumer. A consumer is missing what
// lies between the two.
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
