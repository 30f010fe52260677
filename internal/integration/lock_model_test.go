package integration_test

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"
)

// move is something that happened to one lock, or to one election.
type move struct {
	Kind  string // one of those below
	Token int64  // of the hold that it is about
	Count int    // that was written
}

const (
	granted  = "granted"  // a hold began
	ceased   = "ceased"   // its holder relies on it no longer: it was lost, or the answer to its release was
	released = "released" // its holder was told that it is given back
	handed   = "handed"   // likewise, and the key may be kept for another goroutine of the process, until that puts it anew
	counted  = "counted"  // a write under its guard happened
	refusal  = "refusal"  // a write under its guard was refused
	observed = "observed" // somebody was told that it is the leader's, or, where the token is 0, that nobody leads
)

// possession is the state of a lock.
type possession struct {
	token  int64 // of the last hold
	relied bool  // its holder relies on it
	gone   bool  // its key is known to be gone
	count  int   // what the holders count to
}

// lockModel is a lock, or an election, whose holders count under the guard of their hold. At most
// one relies on it at a time; tokens rise; etcd accepts what the last holder writes, and of no
// other, until its key is gone; and the count goes up by one each time. A holder that is refused
// while it relies on its hold was not told in time.
func lockModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return possession{gone: true} },
		Step: func(state, input, _ any) (bool, any) { return state.(possession).after(input.(move)) },
	}
}

// after returns whether a move can happen, and what is the case then.
func (p possession) after(m move) (bool, possession) {
	mine := m.Token == p.token
	next := p
	switch m.Kind {
	case granted:
		next.token, next.relied, next.gone = m.Token, true, false
		return !p.relied && m.Token > p.token, next
	case ceased, released, handed:
		next.relied, next.gone = false, m.Kind == released // not before: what is lost may still be there
		return mine && p.relied, next
	case counted:
		next.count = m.Count
		return mine && !p.gone && m.Count == p.count+1, next
	case refusal:
		return !mine || !p.relied, p
	case observed:
		if m.Token != 0 {
			return mine && !p.gone, p
		}
		next.gone = true
		return !p.relied, next
	}
	return false, p
}

func TestLockModel_FindsViolations(t *testing.T) {
	t.Parallel()
	at := func(kind string, token, call, ret int64) porcupine.Operation {
		return porcupine.Operation{Input: move{Kind: kind, Token: token}, Call: call, Return: ret}
	}
	count := func(to int, token, call, ret int64) porcupine.Operation {
		return porcupine.Operation{Input: move{counted, token, to}, Call: call, Return: ret}
	}
	tests := map[string]struct {
		history []porcupine.Operation
		ok      bool
	}{
		"one after the other":                                      {[]porcupine.Operation{at(granted, 5, 0, 1), count(1, 5, 2, 3), at(released, 5, 4, 5), at(granted, 7, 0, 6), count(2, 7, 7, 8)}, true},
		"two at once":                                              {[]porcupine.Operation{at(granted, 5, 0, 1), at(granted, 7, 2, 3), at(released, 5, 4, 5)}, false},
		"the next while the last is releasing":                     {[]porcupine.Operation{at(granted, 5, 0, 1), at(granted, 7, 0, 4), at(released, 5, 2, 6)}, true},
		"the next before the loss was noticed":                     {[]porcupine.Operation{at(granted, 5, 0, 1), at(granted, 7, 2, 3), at(ceased, 5, 4, 4)}, false},
		"the next after it was":                                    {[]porcupine.Operation{at(granted, 5, 0, 1), at(ceased, 5, 2, 2), at(granted, 7, 0, 3)}, true},
		"a token that falls":                                       {[]porcupine.Operation{at(granted, 7, 0, 1), at(released, 7, 2, 3), at(granted, 5, 4, 5)}, false},
		"a token that is used again":                               {[]porcupine.Operation{at(granted, 5, 0, 1), at(released, 5, 2, 3), at(granted, 5, 4, 5)}, false},
		"a write without a hold":                                   {[]porcupine.Operation{count(1, 5, 0, 1)}, false},
		"a write after the loss, before the next holder":           {[]porcupine.Operation{at(granted, 5, 0, 1), at(ceased, 5, 2, 2), count(1, 5, 3, 4)}, true},
		"a write after the loss, after the next holder":            {[]porcupine.Operation{at(granted, 5, 0, 1), at(ceased, 5, 2, 2), at(granted, 7, 3, 4), count(1, 5, 5, 6)}, false},
		"a write after the release":                                {[]porcupine.Operation{at(granted, 5, 0, 1), at(released, 5, 2, 3), count(1, 5, 4, 5)}, false},
		"a write after the release, before the next goroutine":     {[]porcupine.Operation{at(granted, 5, 0, 1), at(handed, 5, 2, 3), count(1, 5, 4, 5), at(granted, 6, 2, 7)}, true},
		"a write after the release, after the next goroutine":      {[]porcupine.Operation{at(granted, 5, 0, 1), at(handed, 5, 2, 3), at(granted, 6, 2, 4), count(1, 5, 5, 6)}, false},
		"a write that is refused after the release":                {[]porcupine.Operation{at(granted, 5, 0, 1), at(released, 5, 2, 3), at(refusal, 5, 4, 5)}, true},
		"a write that is refused while it is held":                 {[]porcupine.Operation{at(granted, 5, 0, 1), at(refusal, 5, 2, 3), at(released, 5, 4, 5)}, false},
		"a count that was lost":                                    {[]porcupine.Operation{at(granted, 5, 0, 1), count(1, 5, 2, 3), at(released, 5, 4, 5), at(granted, 7, 6, 7), count(1, 7, 8, 9)}, false},
		"a leader that is seen":                                    {[]porcupine.Operation{at(granted, 5, 0, 3), at(observed, 5, 1, 2), at(released, 5, 4, 5), at(observed, 0, 6, 7)}, true},
		"a leader that is seen while it waits for another to stop": {[]porcupine.Operation{at(granted, 5, 0, 1), at(granted, 7, 0, 9), at(observed, 7, 2, 3), at(released, 5, 4, 5)}, false},
		"a leader that is seen after it has resigned":              {[]porcupine.Operation{at(granted, 5, 0, 1), at(released, 5, 2, 3), at(observed, 5, 4, 5)}, false},
		"no leader while there is one":                             {[]porcupine.Operation{at(granted, 5, 0, 1), at(observed, 0, 2, 3), at(released, 5, 4, 5)}, false},
		"a write by a leader after there was none":                 {[]porcupine.Operation{at(granted, 5, 0, 1), at(ceased, 5, 2, 2), at(observed, 0, 3, 4), count(1, 5, 5, 6)}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tc.ok, porcupine.CheckOperations(lockModel(), tc.history))
		})
	}
}

// checkMoves fails the test unless some order of the moves explains them all.
func checkMoves(t *testing.T, moves []porcupine.Operation) {
	t.Helper()
	kinds := map[string]int{}
	for _, op := range moves {
		kinds[op.Input.(move).Kind]++
	}
	began := time.Now()
	if !assert.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(lockModel(), moves, time.Minute)) {
		logMoves(t, moves)
	}
	t.Logf("%v; checked in %v", kinds, time.Since(began).Round(time.Millisecond))
}

// logMoves logs moves in the order of their calls. Of the same observations in a row it logs one.
func logMoves(t *testing.T, moves []porcupine.Operation) {
	t.Helper()
	moves = slices.SortedFunc(slices.Values(moves), func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var last move
	for _, op := range moves {
		m := op.Input.(move)
		if m.Kind == observed && m == last {
			continue
		}
		last = m
		t.Logf("%12.6f to %12.6f: %s %d, count %d", float64(op.Call)/1e9, float64(op.Return)/1e9, m.Kind, m.Token, m.Count)
	}
}
