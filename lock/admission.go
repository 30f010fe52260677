package lock

import (
	"strconv"
	"strings"
)

// admissionRule returns the blockers of a waiter. ahead are the entries ahead of it, nearest first.
// The blockers are the fewest and nearest entries that block by themselves. A waiter without
// blockers is admitted.
//
// A rule depends on these entries alone. If it does not block on a set of entries, it must not
// block on a subset of them. Create revisions only rise, so no key is created ahead of an existing
// one. Therefore a waiter that was admitted stays admitted as long as its key exists, and a grant
// is safe without another read.
//
// permanent is an entry without a lease among the blockers, if the waiter cannot be admitted before
// that entry is deleted.
type admissionRule func(ahead []entry) (blockers []entry, permanent *entry)

// waiterKind describes a kind of waiters in one queue.
type waiterKind struct {
	*admission

	name       string // for messages
	prefix     string // of the queue, ending in "/"
	local      bool   // its waiters take turns in the local queue
	value      string // of the key
	onEnqueued func() // called when the key is in the queue; may be nil
}

// admission describes how a kind of waiters is admitted.
type admission struct {
	suffix   string // suffix of the key, if a rule has to tell kinds of waiters apart
	rule     admissionRule
	pageSize int64 // how many entries ahead are read at first; 0 means all
}

// The admissions of all kinds but permits, whose rule depends on their weight.
//
//nolint:gochecknoglobals // they do not change
var (
	exclusiveAdmission     = &admission{rule: blockedByNearest, pageSize: exclusivePageSize}
	readerAdmission        = &admission{suffix: readerSuffix, rule: blockedByWriter, pageSize: readerPageSize}
	barrierAdmission       = &admission{suffix: barrierSuffix, rule: alwaysAdmit}
	doubleBarrierAdmission = &admission{suffix: doubleBarrierSuffix, rule: alwaysAdmit}
)

// exclusivePageSize is how many entries ahead a waiter for an exclusive lock reads at first. The
// nearest one blocks it, but some may belong to longer names.
const exclusivePageSize = 3

// blockedByNearest is the rule of mutexes, writers and elections: the nearest entry ahead blocks.
func blockedByNearest(ahead []entry) (blockers []entry, permanent *entry) {
	if len(ahead) == 0 {
		return nil, nil
	}
	return blocker(ahead[:1])
}

// blocker returns the only entry of nearest as the blocker.
func blocker(nearest []entry) (blockers []entry, permanent *entry) {
	if nearest[0].lease == 0 {
		return nearest, &nearest[0]
	}
	return nearest, nil
}

// blockedByWriter is the rule of readers: the nearest entry ahead that is not a reader's blocks.
func blockedByWriter(ahead []entry) (blockers []entry, permanent *entry) {
	for i := range ahead {
		if !ahead[i].hasSuffix(readerSuffix) {
			return blocker(ahead[i : i+1])
		}
	}
	return nil, nil
}

// blockedByWeight returns the rule of permits: the weights of the entries ahead may add up to
// maxWeight.
func blockedByWeight(maxWeight int) admissionRule {
	return func(ahead []entry) (blockers []entry, permanent *entry) {
		// permanentRoom is the room that is left once all entries with a lease are gone.
		room, permanentRoom := maxWeight, maxWeight
		for i := range ahead {
			e := &ahead[i]
			w := weightOf(e)
			if e.lease == 0 {
				permanentRoom -= w
				permanent = e
			}
			if w > room {
				if permanentRoom >= 0 {
					permanent = nil
				}
				return ahead[:i+1], permanent
			}
			room -= w
		}
		return nil, nil
	}
}

// weightOf returns the weight in the value of an entry, or 1 if there is none.
func weightOf(e *entry) int {
	field, _, _ := strings.Cut(e.value, " ")
	if w, err := strconv.Atoi(field); err == nil && w > 0 {
		return w
	}
	return 1
}

// alwaysAdmit is the rule of barriers, which are not queues.
func alwaysAdmit([]entry) (blockers []entry, permanent *entry) { return nil, nil }
