package integration_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// stay is a time in which a process relied on having a lock, as seen from outside: from when it was
// told that it had the lock until it learned of the loss, or was about to release it.
type stay struct {
	name        string
	token       int64
	from, until time.Time
	told        time.Time // when the process learned of the loss, if a stall made that later than until
	lost        bool
}

// stays is a log of them.
type stays struct {
	begun   atomic.Int64
	kind    string   // of the lines in the journal
	journal *journal // nil in a test of one process

	mu  sync.Mutex
	all []stay
}

func (s *stays) add(one stay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, one)
}

// findings is what is to be said about some stays.
type findings struct {
	Stays, Lost int
	Overlaps    int // stays that began before an earlier one of the name had ended
	Regressions int // whose token is not higher than those of all earlier ones of the name
	Worst       time.Duration
	Excused     excuses // stays that began before an earlier one was told, but for its stall
}

func (s *stays) judge() (f findings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.all)
	slices.SortStableFunc(all, func(a, b stay) int { return a.from.Compare(b.from) })
	until, told, top := map[string]time.Time{}, map[string]time.Time{}, map[string]int64{}
	for _, one := range all {
		f.Stays++
		if one.lost {
			f.Lost++
		}
		if over := until[one.name].Sub(one.from); over > 0 {
			f.Overlaps++
			f.Worst = max(f.Worst, min(over, one.until.Sub(one.from)))
		} else if late := told[one.name].Sub(one.from); late > 0 {
			f.Excused.add(late)
		}
		if one.token <= top[one.name] {
			f.Regressions++
		}
		if one.until.After(until[one.name]) {
			until[one.name] = one.until
		}
		if one.told.After(told[one.name]) {
			told[one.name] = one.told
		}
		top[one.name] = max(top[one.name], one.token)
	}
	return f
}

func TestStays_FindsOverlaps(t *testing.T) {
	t.Parallel()
	began := time.Now()
	at := func(name string, token int64, from, until int) stay {
		second := func(n int) time.Time { return began.Add(time.Duration(n) * time.Second) }
		return stay{name: name, token: token, from: second(from), until: second(until)}
	}
	lost := at("a", 1, 0, 1)
	lost.lost = true
	for name, tc := range map[string]struct {
		all  []stay
		want findings
	}{
		"one after the other, in whatever order they are told": {[]stay{at("a", 2, 1, 2), lost}, findings{Stays: 2, Lost: 1}},
		"at once, of different names":                          {[]stay{at("a", 1, 0, 2), at("b", 1, 1, 3)}, findings{Stays: 2}},
		"at once":                                              {[]stay{at("a", 1, 0, 5), at("a", 2, 4, 8)}, findings{Stays: 2, Overlaps: 1, Worst: time.Second}},
		"one within another, and one more":                     {[]stay{at("a", 1, 0, 9), at("a", 2, 1, 3), at("a", 3, 8, 12)}, findings{Stays: 3, Overlaps: 2, Worst: 2 * time.Second}},
		"a token that falls":                                   {[]stay{at("a", 2, 0, 1), at("a", 1, 1, 2), at("a", 2, 3, 4)}, findings{Stays: 3, Regressions: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tc.want, (&stays{all: tc.all}).judge())
		})
	}
}
