package lock

import (
	"strconv"
	"strings"
)

// rule says what blocks a waiter, given the entries ahead of it, nearest first: the fewest and nearest of them
// that do so by themselves. None means that the waiter is admitted.
//
// A rule depends on these entries alone and must not block on fewer of them if it did not on more: nobody ever gets in
// front of a key that is there, since create revisions only rise, so a waiter that was admitted stays so for as long
// as its key exists. That is what makes a grant safe without asking again.
//
// dead is an entry without a lease among the blockers, if the waiter cannot be admitted before it is gone.
type rule func(ahead []entry) (blockers []entry, dead *entry)

// waiterKind is what kind of waiter stands in a queue.
type waiterKind struct {
	*admission

	name     string // for messages
	prefix   string // of the queue, ending in "/"
	value    string // of the key
	enqueued func() // called when the key is in the queue; may be nil
}

// admission is how a waiter is admitted.
type admission struct {
	mark     string // at the end of the key, if a rule has to tell kinds of waiters apart
	rule     rule
	pageSize int64 // how many of those ahead are read at first; 0: all
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

// fewAhead is how many of those ahead a waiter for an exclusive lock reads at first: the nearest one blocks it, but some may
// belong to longer names.
const fewAhead = 3

// behindNearest is the rule of mutexes and elections: whoever is ahead blocks, and the nearest one goes last.
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

// behindWriter is the rule of readers: all but writers may be ahead.
func behindWriter(ahead []entry) (blockers []entry, dead *entry) {
	for i := range ahead {
		if !ahead[i].marked(markReader) {
			return blockedOn(ahead[i : i+1])
		}
	}
	return nil, nil
}

// behindWeight is the rule of permits: those ahead may weigh no more than most in all.
func behindWeight(most int) rule {
	return func(ahead []entry) (blockers []entry, dead *entry) {
		left, ever := most, most // ever is what is left when all have gone that will
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

// weightOf is what an entry says that it weighs; 1 if it says nothing.
func weightOf(e *entry) int {
	said, _, _ := strings.Cut(e.value, " ")
	if w, err := strconv.Atoi(said); err == nil && w > 0 {
		return w
	}
	return 1
}

// alwaysAdmit is the rule of barriers, which are no queues.
func alwaysAdmit([]entry) (blockers []entry, dead *entry) { return nil, nil }
