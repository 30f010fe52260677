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
	DefaultMaxAttempts = 3
	DefaultBaseDelay   = 100 * time.Millisecond
	DefaultMaxDelay    = 2 * time.Second

	// DefaultReadTimeout and DefaultWriteTimeout apply if a context has no deadline. The server
	// gives up on a write after 7 s; with a shorter timeout, its response never arrives.
	DefaultReadTimeout  = 5 * time.Second
	DefaultWriteTimeout = 10 * time.Second
)

// Policy configures how often and at what intervals a request is repeated.
type Policy struct {
	MaxAttempts int
	BaseDelay   time.Duration
	MaxDelay    time.Duration
}

// WithDefaults returns p with defaults for the fields that are zero.
func (p Policy) WithDefaults() Policy {
	if p.MaxAttempts == 0 {
		p.MaxAttempts = DefaultMaxAttempts
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

// Validate returns an error that matches errs.Invalid and lists every invalid field, or nil.
func (p Policy) Validate() error {
	var invalid []error
	if p.MaxAttempts < 0 {
		invalid = append(invalid, fmt.Errorf("%w: retry: %d attempts", errs.Invalid, p.MaxAttempts))
	}
	if p.BaseDelay < 0 || p.MaxDelay < 0 {
		invalid = append(invalid, fmt.Errorf("%w: retry: negative delay", errs.Invalid))
	}
	if p.MaxDelay != 0 && p.MaxDelay < p.BaseDelay {
		invalid = append(invalid, fmt.Errorf("%w: retry: the maximum delay %v is less than the base delay %v", errs.Invalid, p.MaxDelay, p.BaseDelay))
	}
	return errors.Join(invalid...)
}

// minDelay is the minimum of BaseDelay and MaxDelay. With a smaller delay, waiting for a leader
// would be a busy loop.
const minDelay = time.Millisecond

// Backoff returns the delays for one call. They grow exponentially from BaseDelay to MaxDelay, with
// full jitter.
func (p Policy) Backoff() backoff.BackOff {
	return &backoff.ExponentialBackOff{
		// A randomization factor of 1 around x/2 is full jitter over [0, x).
		InitialInterval:     max(p.BaseDelay, minDelay) / 2,
		MaxInterval:         max(p.MaxDelay, minDelay) / 2,
		RandomizationFactor: 1,
		Multiplier:          2,
		Stop:                backoff.Stop,
		Clock:               backoff.SystemClock,
	}
}

// Budget limits retries to a fraction of all calls. Each call deposits one token, and each retry
// withdraws callsPerRetry of them. The zero Budget allows no retries; use [NewBudget].
type Budget struct {
	tokens   atomic.Int64
	capacity int64
}

const (
	callsPerRetry       = 10  // retries are limited to a tenth of the calls
	retryBudgetCapacity = 200 // enough for a few seconds of a member's failure
)

// NewBudget returns a budget that initially allows the given number of retries, which is also its
// capacity.
func NewBudget(retries int64) *Budget {
	b := &Budget{capacity: retries * callsPerRetry}
	b.tokens.Store(b.capacity)
	return b
}

// Deposit adds the token of one call.
func (b *Budget) Deposit() { b.add(1) }

// Refund undoes a Withdraw for a retry that was not made.
func (b *Budget) Refund() { b.add(callsPerRetry) }

func (b *Budget) add(n int64) {
	for {
		old := b.tokens.Load()
		sum := min(old+n, b.capacity)
		// Usually the budget is full and is only read.
		if sum == old || b.tokens.CompareAndSwap(old, sum) {
			return
		}
	}
}

// Withdraw withdraws the tokens for one retry. It returns false if there are not enough.
func (b *Budget) Withdraw() bool {
	for {
		old := b.tokens.Load()
		if old < callsPerRetry {
			return false
		}
		if b.tokens.CompareAndSwap(old, old-callsPerRetry) {
			return true
		}
	}
}
