package discovery

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"sort"
	"sync/atomic"
)

// A Policy chooses one of several instances. Implement it for a policy of your own.
type Policy interface {
	// Choose returns the index of the chosen candidate. There is at least one. key is the argument
	// of PickFor, or "" for Pick. Choose is called concurrently on every pick, so it must not
	// block.
	Choose(c Candidates, key string) int
}

// Candidates are the instances to choose from, sorted by ID. They do not change during Choose.
type Candidates struct{ s *pickSet }

// Len returns the number of candidates.
func (c Candidates) Len() int { return len(c.s.candidates) }

// At returns the n-th candidate. It is shared; do not modify it.
func (c Candidates) At(n int) *Instance { return c.s.candidates[n].instance }

// Load returns the number of picks of the n-th candidate by this picker whose Done was not called
// yet.
func (c Candidates) Load(n int) int { return int(c.s.candidates[n].load.Load()) }

// RoundRobin returns a policy that takes one instance after the other, starting at a random one so
// that many clients do not start with the same.
func RoundRobin() Policy {
	r := &roundRobin{}
	r.n.Store(rand.Uint32())
	return r
}

// roundRobin counts in 32 bits, which divide faster. The wrap-around shortens one round in 2³².
type roundRobin struct{ n atomic.Uint32 }

// Choose returns the next index.
func (r *roundRobin) Choose(c Candidates, _ string) int {
	return int(r.n.Add(1) % uint32(c.Len())) //nolint:gosec // fewer than 2³² candidates
}

// Random returns a policy that picks each instance with the same probability.
func Random() Policy { return random{} }

type random struct{}

// Choose returns a random index.
func (random) Choose(c Candidates, _ string) int { return rand.IntN(c.Len()) }

// Weighted returns a policy that picks each instance with a probability proportional to its Weight.
func Weighted() Policy { return weighted{} }

type weighted struct{}

// Choose returns a random index, by weight.
func (weighted) Choose(c Candidates, _ string) int {
	s := c.s
	if s.uniform {
		return rand.IntN(len(s.candidates))
	}
	at := rand.IntN(s.sums[len(s.sums)-1])
	return sort.Search(len(s.sums), func(n int) bool { return s.sums[n] > at })
}

// LeastLoaded returns a policy that compares two random instances and picks the one with the lower
// load in proportion to its Weight. The load is the number of picks in flight by this picker, plus
// the new one, divided by the weight. Every pick needs its Done.
func LeastLoaded() Policy { return leastLoaded{} }

type leastLoaded struct{}

// Choose returns the less loaded of two random candidates.
func (leastLoaded) Choose(c Candidates, _ string) int {
	n := c.Len()
	if n == 1 {
		return 0
	}
	a := rand.IntN(n)
	b := rand.IntN(n - 1)
	if b >= a {
		b++
	}
	if (c.Load(b)+1)*c.At(a).weight() < (c.Load(a)+1)*c.At(b).weight() {
		return b
	}
	return a
}

// Sticky returns a policy that maps each key to one of the candidates. Processes whose pickers have
// the same candidates pick the same instance. Filters, a preferred zone and ejections, which are
// those of one picker, change the candidates. When a candidate leaves, only its keys move; when one
// joins, only the keys that move to it. Without a key, Sticky picks a random candidate.
//
// It is rendezvous hashing by ID (Thaler and Ravishankar, 1998) with weights, so the cost of a pick
// is proportional to the number of candidates.
func Sticky() Policy { return sticky{} }

type sticky struct{}

// Choose returns the index that key belongs to.
func (sticky) Choose(c Candidates, key string) int {
	if key == "" {
		return rand.IntN(c.Len())
	}
	seed := hash(key)
	if c.s.uniform {
		return c.s.highestScore(seed)
	}
	best, bestScore := 0, math.Inf(-1)
	for n, candidate := range c.s.candidates {
		// Weighted rendezvous hashing: the score -w/ln(u), with u uniform in (0, 1), is the highest
		// with probability proportional to w.
		u := (float64(mix(seed^candidate.hash)>>11) + 0.5) / (1 << 53)
		if score := float64(candidate.instance.weight()) / -math.Log(u); score > bestScore {
			best, bestScore = n, score
		}
	}
	return best
}

// highestScore returns the index with the highest score if all weights are equal.
func (s *pickSet) highestScore(seed uint64) int {
	best, bestScore := 0, uint64(0)
	for n, h := range s.hashes {
		if score := mix(seed ^ h); score >= bestScore {
			best, bestScore = n, score
		}
	}
	return best
}

// hash is 64-bit FNV-1a followed by mix. It must not change: processes of different versions have
// to agree on who owns a key.
func hash(s string) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for n := range len(s) {
		h = (h ^ uint64(s[n])) * prime
	}
	return mix(h)
}

// mix spreads differences in few bits over all bits, by two folded multiplications.
func mix(x uint64) uint64 {
	const a, b = 0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9
	hi, lo := bits.Mul64(x^a, b)
	hi, lo = bits.Mul64(hi^lo, a)
	return hi ^ lo
}
