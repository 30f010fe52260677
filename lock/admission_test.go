package lock

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// queueOf returns a random queue of readers, writers and permits of any weight; some have no lease.
func queueOf(r *rand.Rand) (all []entry) {
	for i := range r.IntN(8) {
		e := entry{key: strconv.Itoa(i), createRev: int64(i + 1), lease: 1, value: strconv.Itoa(r.IntN(5)) + " x"}
		if r.IntN(2) == 0 {
			e.key += readerSuffix
		}
		if r.IntN(6) == 0 {
			e.lease = 0
		}
		all = append(all, e)
	}
	return all
}

// allRules are the rules that block.
func allRules(r *rand.Rand) map[string]func() admissionRule {
	return map[string]func() admissionRule{
		"behindNearest": func() admissionRule { return blockedByNearest },
		"behindWriter":  func() admissionRule { return blockedByWriter },
		"behindWeight":  func() admissionRule { return blockedByWeight(r.IntN(10)) },
	}
}

// A rule must not begin to block when entries ahead disappear. Its blockers must be entries ahead,
// must block by themselves, and must not block without the last of them, because a waiter watches
// only its blockers.
func TestRules_AdmittedWaiterStaysAdmitted(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for name, fresh := range allRules(r) {
		for range 3000 {
			one, ahead := fresh(), queueOf(r)
			admitted := false
			for {
				blockers, dead := one(ahead)
				require.True(t, len(blockers) == 0 || !admitted, "%s: %v", name, ahead)
				admitted = len(blockers) == 0
				if dead != nil {
					require.False(t, admitted)
					require.Zero(t, dead.lease)
				}
				if !admitted {
					again, _ := one(blockers)
					require.Equal(t, blockers, again, "%s: %v", name, ahead)
					fewer, _ := one(blockers[:len(blockers)-1])
					require.Empty(t, fewer, "%s: %v", name, ahead)
				}
				if len(ahead) == 0 {
					break
				}
				i := r.IntN(len(ahead))
				ahead = append(ahead[:i:i], ahead[i+1:]...)
			}
			require.True(t, admitted, "%s: no entry is ahead", name)
		}
	}
}

// A rule reports a permanent blocker if and only if the end of all other entries would not admit
// the waiter.
func TestRules_ReportPermanentBlocker(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for name, fresh := range allRules(r) {
		for range 3000 {
			one, all := fresh(), queueOf(r)
			var forever []entry
			for _, e := range all {
				if e.lease == 0 {
					forever = append(forever, e)
				}
			}
			last, dead := one(forever)
			hope := len(last) == 0
			require.Equal(t, hope, dead == nil, "%s: %v", name, forever)
			if _, dead := one(all); dead != nil {
				require.False(t, hope, "%s: %v", name, all)
			}
		}
	}
}

func TestWeightOf_InvalidWeightIsOne(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]int{
		"": 1, "x": 1, "0 x": 1, "-3 x": 1, "3": 3, "3 host/prog/1": 3, "99999999999999999999 x": 1, " 3": 1,
	} {
		assert.Equal(t, want, weightOf(&entry{value: said}), said)
	}
	most := entry{value: strconv.Itoa(math.MaxInt), lease: 1}
	blockers, _ := blockedByWeight(math.MaxInt - 1)([]entry{most, most})
	assert.Len(t, blockers, 1, "without an overflow")
}

func TestParty_RoundMembersAreTheOldest(t *testing.T) {
	t.Parallel()
	waits := func(key string, create int64) entry {
		return entry{key: key + barrierSuffix, createRev: create, modRev: create}
	}
	passed := waits("b", 2)
	passed.modRev = 9
	newestFirst := []entry{waits("e", 6), waits("d", 5), {key: "stranger", createRev: 4, modRev: 4}, waits("c", 3), passed, waits("a", 1)}
	keys := func(from int) (out []string) {
		p := &party{&waiter{admission: barrierAdmission}}
		for _, e := range p.roundMembers(newestFirst[from:]) {
			out = append(out, e.key)
		}
		return out
	}
	assert.Equal(t, []string{"a-b"}, keys(5))
	assert.Equal(t, []string{"a-b", "c-b", "d-b"}, keys(1))
}
