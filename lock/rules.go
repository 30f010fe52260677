package lock

import (
	"strconv"
	"strings"
)

// rule returns the blockers of a waiter. ahead are the entries ahead of it, nearest first. The
// blockers are the fewest and nearest entries that block by themselves. A waiter without blockers
// is admitted.
//
// A rule depends on these entries alone. If it does not block on a set of entries, it must not
// block on a subset of them. Create revisions only rise, so that no key is created ahead of an
// existing one. Therefore a waiter that was admitted stays admitted as long as its key exists, and
// a grant is safe without another read.
//
// dead is an entry without a lease among the blockers, if the waiter cannot be admitted before it
// is deleted.
type rule func(ahead []entry) (blockers []entry, dead *entry)

// waiterKind describes a kind of waiters in one queue.
type waiterKind struct {
	*admission

	name     string // for messages
	prefix   string // of the queue, ending in "/"
	value    string // of the key
	enqueued func() // called when the key is in the queue; may be nil
}

// admission describes how a kind of waiters is admitted.
type admission struct {
	mark     string // suffix of the key, if a rule has to tell kinds of waiters apart
	rule     rule
	pageSize int64 // how many entries ahead are read at first; 0 means all
}

// The admissions of all kinds but permits, whose rule depends on their weight.
//
//nolint:gochecknoglobals // they do not change
var (
	exclusive     = &admission{rule: behindNearest, pageSize: fewAhead}
	reader        = &admission{mark: markReader, rule: behindWriter, pageSize: fewReaders}
	barrier       = &admission{mark: markParty, rule: alwaysAdmit}
	doubleBarrier = &admission{mark: markDouble, rule: alwaysAdmit}
)

// fewAhead is how many entries ahead a waiter for an exclusive lock reads at first. The nearest one
// blocks it, but some may belong to longer names.
const fewAhead = 3

// behindNearest is the rule of mutexes, writers and elections: the nearest entry ahead blocks.
func behindNearest(ahead []entry) (blockers []entry, dead *entry) {
	if len(ahead) == 0 {
		return nil, nil
	}
	return blockedOn(ahead[:1])
}

func blockedOn(one []entry) (blockers []entry, dead *entry) {
	if one[0].lease == 0 {
		return one, &one[0]
	}
	return one, nil
}

// behindWriter is the rule of readers: the nearest entry ahead that is not a reader's blocks.
func behindWriter(ahead []entry) (blockers []entry, dead *entry) {
	for i := range ahead {
		if !ahead[i].marked(markReader) {
			return blockedOn(ahead[i : i+1])
		}
	}
	return nil, nil
}

// behindWeight returns the rule of permits: the weights of the entries ahead may add up to most.
func behindWeight(most int) rule {
	return func(ahead []entry) (blockers []entry, dead *entry) {
		left, ever := most, most // ever is the room that is left once all entries with a lease are gone
		for i := range ahead {
			e := &ahead[i]
			w := weightOf(e)
			if e.lease == 0 {
				ever -= w
				dead = e
			}
			if w > left {
				if ever >= 0 {
					dead = nil
				}
				return ahead[:i+1], dead
			}
			left -= w
		}
		return nil, nil
	}
}

// weightOf returns the weight in the value of an entry, or 1 if there is none.
func weightOf(e *entry) int {
	said, _, _ := strings.Cut(e.value, " ")
	if w, err := strconv.Atoi(said); err == nil && w > 0 {
		return w
	}
	return 1
}

// alwaysAdmit is the rule of barriers, which are not queues.
func alwaysAdmit([]entry) (blockers []entry, dead *entry) { return nil, nil }
