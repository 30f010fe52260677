package discovery

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"sort"
	"sync/atomic"
)

// Policy chooses one of several instances. A policy of your own is a type with this one method.
type Policy interface {
	// Choose returns the index of the chosen candidate, of which there is at least one. key is what PickFor was given, ""
	// for Pick. It is called by all goroutines that pick, at once, and does no I/O: it is on the path of every request.
	Choose(c Candidates, key string) int
}

// Candidates are the instances to choose from, in the order of their IDs. They stay the same for one choice.
type Candidates struct{ s *pickSet }

// Len is how many there are.
func (c Candidates) Len() int { return len(c.s.candidates) }

// At is the n-th. It is shared: do not change it.
func (c Candidates) At(n int) *Instance { return c.s.candidates[n].instance }

// Load is how many picks of the n-th by this picker are under way: whose Done was not called yet.
func (c Candidates) Load(n int) int { return int(c.s.candidates[n].load.Load()) }

// RoundRobin takes one after the other. It begins anywhere, so that many clients do not begin with the same.
func RoundRobin() Policy {
	r := &roundRobin{}
	r.n.Store(rand.Uint32())
	return r
}

// roundRobin counts in 32 bits, which divide faster. One turn in four billion is cut short.
type roundRobin struct{ n atomic.Uint32 }

// Choose takes the next.
func (r *roundRobin) Choose(c Candidates, _ string) int {
	return int(r.n.Add(1) % uint32(c.Len())) //nolint:gosec // memory ends before 32 bits do
}

// Random takes any, all with the same probability.
func Random() Policy { return random{} }

type random struct{}

// Choose takes any.
func (random) Choose(c Candidates, _ string) int { return rand.IntN(c.Len()) }

// Weighted takes any, with a probability that is proportional to the Weight.
func Weighted() Policy { return weighted{} }

type weighted struct{}

// Choose takes any by weight.
func (weighted) Choose(c Candidates, _ string) int {
	s := c.s
	if s.uniform {
		return rand.IntN(len(s.candidates))
	}
	at := rand.IntN(s.sums[len(s.sums)-1])
	return sort.Search(len(s.sums), func(n int) bool { return s.sums[n] > at })
}

// LeastLoaded compares two random instances and picks the one that would have the lower load in
// proportion to its Weight: the number of picks in flight in this picker, plus the new one, divided
// by the weight. Every pick needs its Done.
func LeastLoaded() Policy { return leastLoaded{} }

type leastLoaded struct{}

// Choose returns the better of two.
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

// Sticky takes the same instance for the same key, in every process, as long as that instance is there: when one goes, only
// its own keys move, and when one comes, only the keys that move to it. It is rendezvous hashing (Thaler and Ravishankar,
// 1998) by ID, with the weights of "weighted rendezvous hashing", so a pick goes through all instances. Without a key it
// takes any.
func Sticky() Policy { return sticky{} }

type sticky struct{}

// Choose takes the one that the key belongs to.
func (sticky) Choose(c Candidates, key string) int {
	if key == "" {
		return rand.IntN(c.Len())
	}
	seed := hash(key)
	if c.s.uniform {
		return c.s.highestScore(seed)
	}
	best, most := 0, math.Inf(-1)
	for n, node := range c.s.candidates {
		// -w / ln(u) for u in (0, 1): who has it largest has it so with a probability proportional to w
		u := (float64(mix(seed^node.hash)>>11) + 0.5) / (1 << 53)
		if score := float64(node.instance.weight()) / -math.Log(u); score > most {
			best, most = n, score
		}
	}
	return best
}

// highestScore is the candidate of the highest score where all weights are equal.
func (s *pickSet) highestScore(seed uint64) int {
	best, most := 0, uint64(0)
	for n, h := range s.hashes {
		if score := mix(seed ^ h); score >= most {
			best, most = n, score
		}
	}
	return best
}

// hash is FNV-1a of 64 bits, finished by mix. It is part of the contract: processes agree on who has a key.
func hash(s string) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for n := range len(s) {
		h = (h ^ uint64(s[n])) * prime
	}
	return mix(h)
}

// mix spreads what differs in few bits over all of them: one folded multiplication, and another to undo patterns.
func mix(x uint64) uint64 {
	const a, b = 0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9
	hi, lo := bits.Mul64(x^a, b)
	hi, lo = bits.Mul64(hi^lo, a)
	return hi ^ lo
}
