package watch

import "cmp"

// A position says how much of the cluster's changes is there: all of them, up to revision rev of a history. The log of a
// hub has one, each consumer has one, and what is missing lies between two of them.
//
// Histories are numbered from 1, and the number rises whenever the cluster turns out to have another history: revisions start
// over then, so that those of different histories cannot be compared. Positions can: they are ordered by history first.
// The zero position is before everything.
//
// These hold for every log and every consumer, because advance never goes back and span.nodes checks the order of events:
//
//   - Its position never goes back in that order.
//   - It moves to a revision only if every change up to that revision was appended to the log, or handed to the consumer, or
//     lies in a gap that the consumer has crossed.
//   - The entries after the position of a log have later revisions, in rising order.
type position struct {
	history uint64
	rev     int64
}

// compare orders positions.
func (p position) compare(q position) int {
	return cmp.Or(cmp.Compare(p.history, q.history), cmp.Compare(p.rev, q.rev))
}

// reaches reports whether everything up to q is there.
func (p position) reaches(q position) bool { return p.compare(q) >= 0 }

// next is the first revision that is not there.
func (p position) next() int64 { return p.rev + 1 }

// at is revision rev of the same history.
func (p position) at(rev int64) position { return position{history: p.history, rev: rev} }

// advance returns the later of p and q.
func (p position) advance(q position) position {
	if p.reaches(q) {
		return p
	}
	return q
}

// rewritten is revision rev of the history that begins after that of p.
func (p position) rewritten(rev int64) position {
	return position{history: p.history + 1, rev: rev}
}
