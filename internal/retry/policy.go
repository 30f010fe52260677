package retry

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// The defaults of a policy.
const (
	DefaultAttempts  = 3
	DefaultBaseDelay = 100 * time.Millisecond
	DefaultMaxDelay  = 2 * time.Second

	// DefaultReadTimeout and DefaultWriteTimeout apply where a context has no deadline. The server gives up on a write
	// after 7 s: below that, its refusal is never heard.
	DefaultReadTimeout  = 5 * time.Second
	DefaultWriteTimeout = 10 * time.Second
)

// Policy says how often and at what pace something is sent again.
type Policy struct {
	MaxAttempts int
	BaseDelay   time.Duration
	MaxDelay    time.Duration
}

// WithDefaults fills in what is zero.
func (p Policy) WithDefaults() Policy {
	if p.MaxAttempts == 0 {
		p.MaxAttempts = DefaultAttempts
	}
	if p.BaseDelay == 0 {
		p.BaseDelay = DefaultBaseDelay
		if p.MaxDelay != 0 {
			p.BaseDelay = min(p.BaseDelay, p.MaxDelay)
		}
	}
	if p.MaxDelay == 0 {
		p.MaxDelay = max(DefaultMaxDelay, p.BaseDelay)
	}
	return p
}

// Validate complains about what cannot be meant.
func (p Policy) Validate() error {
	var complaints []error
	if p.MaxAttempts < 0 {
		complaints = append(complaints, fmt.Errorf("%w: retry: %d attempts", errs.Invalid, p.MaxAttempts))
	}
	if p.BaseDelay < 0 || p.MaxDelay < 0 {
		complaints = append(complaints, fmt.Errorf("%w: retry: negative delay", errs.Invalid))
	}
	if p.MaxDelay != 0 && p.MaxDelay < p.BaseDelay {
		complaints = append(complaints, fmt.Errorf("%w: retry: the longest delay %v is below the first one %v", errs.Invalid, p.MaxDelay, p.BaseDelay))
	}
	return errors.Join(complaints...)
}

// minDelay bounds what BaseDelay and MaxDelay mean from below: with less, waiting for a leader would be a busy loop.
const minDelay = time.Millisecond

// Backoff returns fresh waits for one call: exponential from BaseDelay to MaxDelay, neither below 1 ms, with full jitter.
func (p Policy) Backoff() backoff.BackOff {
	return &backoff.ExponentialBackOff{
		// Full jitter over [0, 2x) with x doubling is what a factor of 1 around x/2 draws.
		InitialInterval:     max(p.BaseDelay, minDelay) / 2,
		MaxInterval:         max(p.MaxDelay, minDelay) / 2,
		RandomizationFactor: 1,
		Multiplier:          2,
		Stop:                backoff.Stop,
		Clock:               backoff.SystemClock,
	}
}

// Budget bounds repeats to a share of all calls. The zero value refuses every repeat; use [NewBudget]. It is counted in
// calls: a repeat costs budgetCalls of them.
type Budget struct {
	calls    atomic.Int64
	capacity int64
}

const (
	budgetCalls   = 10  // that pay for one repeat
	retryCapacity = 200 // a few seconds of one member's failure
)

// NewBudget returns a full budget. repeats is what it starts with, and what a quiet time can save up.
func NewBudget(repeats int64) *Budget {
	b := &Budget{capacity: repeats * budgetCalls}
	b.calls.Store(b.capacity)
	return b
}

// Call counts a call.
func (b *Budget) Call() { b.add(1) }

// Return gives back what was taken for a repeat that was not made after all.
func (b *Budget) Return() { b.add(budgetCalls) }

func (b *Budget) add(n int64) {
	for {
		was := b.calls.Load()
		is := min(was+n, b.capacity)
		if is == was || b.calls.CompareAndSwap(was, is) { // a full budget, which is the rule, is only read
			return
		}
	}
}

// Take takes one repeat out of the budget and reports whether there was one.
func (b *Budget) Take() bool {
	for {
		was := b.calls.Load()
		if was < budgetCalls {
			return false
		}
		if b.calls.CompareAndSwap(was, was-budgetCalls) {
			return true
		}
	}
}
