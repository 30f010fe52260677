package lock

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// queueOf is a random queue of readers, writers and permits of any weight; some have no lease.
func queueOf(r *rand.Rand) (all []entry) {
	for i := range r.IntN(8) {
		e := entry{key: strconv.Itoa(i), create: int64(i + 1), lease: 1, value: strconv.Itoa(r.IntN(5)) + " x"}
		if r.IntN(2) == 0 {
			e.key += markReader
		}
		if r.IntN(6) == 0 {
			e.lease = 0
		}
		all = append(all, e)
	}
	return all
}

// Whatever a rule is, it must not take back a yes while those ahead become fewer, and whom it blames must be there.
func TestARuleThatHasSaidYesStandsByIt(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	rules := map[string]func() rule{
		"first":    func() rule { return first },
		"noWriter": func() rule { return noWriter },
		"room":     func() rule { return room(r.IntN(10)) },
		"anybody":  func() rule { return anybody },
	}
	for name, fresh := range rules {
		for range 3000 {
			one, ahead := fresh(), queueOf(r)
			yes := false
			for {
				now, blocker := one(ahead, entry{})
				require.True(t, now || !yes, "%s: %v", name, ahead)
				if blocker != nil {
					require.False(t, now)
					require.Zero(t, blocker.lease)
				}
				yes = now
				if len(ahead) == 0 {
					break
				}
				i := r.IntN(len(ahead))
				ahead = append(ahead[:i:i], ahead[i+1:]...)
			}
			require.True(t, yes, "%s: nobody is ahead", name)
		}
	}
}

// A rule blames a key if and when waiting for all others is of no use.
func TestARuleBlamesAKeyThatNobodyRemovesWhenNothingElseIsAhead(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	rules := map[string]func() rule{
		"first":    func() rule { return first },
		"noWriter": func() rule { return noWriter },
		"room":     func() rule { return room(r.IntN(10)) },
	}
	for name, fresh := range rules {
		for range 3000 {
			one, all := fresh(), queueOf(r)
			var forever []entry
			for _, e := range all {
				if e.lease == 0 {
					forever = append(forever, e)
				}
			}
			hope, last := one(forever, entry{})
			require.Equal(t, hope, last == nil, "%s: %v", name, forever)
			if _, blocker := one(all, entry{}); blocker != nil {
				require.False(t, hope, "%s: %v", name, all)
			}
		}
	}
}

func TestWeightsThatMakeNoSenseCountAsOne(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]int{
		"": 1, "x": 1, "0 x": 1, "-3 x": 1, "3": 3, "3 host/prog/1": 3, "99999999999999999999 x": 1, " 3": 1,
	} {
		assert.Equal(t, want, weightOf(&entry{value: said}), said)
	}
	most := entry{value: strconv.Itoa(math.MaxInt), lease: 1}
	yes, _ := room(math.MaxInt-1)([]entry{most, most}, entry{})
	assert.False(t, yes, "without an overflow")
}

func TestARoundIsMadeUpOfThoseWhoCameFirst(t *testing.T) {
	t.Parallel()
	waits := func(key string, create int64) entry { return entry{key: key + markParty, create: create, mod: create} }
	passed := waits("b", 2)
	passed.mod = 9
	all := []entry{waits("a", 1), passed, waits("c", 3), {key: "stranger", create: 4, mod: 4}, waits("d", 5), waits("e", 6)}
	keys := func(own string) (out []string) {
		p := &place{key: own, spec: spec{mark: markParty}}
		_, members := p.members(all)
		for _, e := range members {
			out = append(out, e.key)
		}
		return out
	}
	assert.Equal(t, []string{"a-b"}, keys("a-b"))
	assert.Equal(t, []string{"a-b", "c-b", "d-b"}, keys("d-b"))
	assert.Empty(t, keys("gone-b"))
}
