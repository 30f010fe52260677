package retry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Call is what the engine has to know of a call.
type Call struct {
	Pkg, Op string
	// Dir and Key are the two parts of the whole key.
	Dir, Key string

	// Read says that the call changes nothing.
	Read bool
	// Guarded says of a write that a second application is impossible, because what it compares can hold only once.
	Guarded bool
	// Persistent says that a failure that leaves no doubt is waited out until the deadline, outside the budget: the caller
	// has nothing else to do. The waits between attempts are those of the policy.
	Persistent bool
	// Raw says that the caller expects client/v3 itself. Without a deadline in ctx attempts are not bounded, only the time
	// in which others begin. The error is that of the last attempt, as it came, or that of ctx.
	Raw bool
}

// Config is what an engine is made of. All of it is optional but Client.
type Config struct {
	Client       *clientv3.Client
	Observed     bool    // every call passes an observer of wire: what it did not see was not sent
	Members      Members // nil: second attempts go over the client's own connection
	Policy       Policy
	ReadTimeout  time.Duration
	WriteTimeout time.Duration
	Logger       *slog.Logger
	Observe      func(op string, attempt int, err error)
}

// Engine makes calls. It is safe for concurrent use and holds no goroutine.
type Engine struct {
	Config

	budget  *Budget
	hedger  *Hedger
	calls   atomic.Uint64
	retries atomic.Uint64
	unknown atomic.Uint64
}

// Stats counts what an engine did.
type Stats struct {
	Calls   uint64 // calls made
	Retries uint64 // attempts beyond the first of a call
	Unknown uint64 // writes reported with an unknown outcome
}

// Shared is a KV that keeps an engine whose budget and hedger all engines of its client share. It has none if that is nil.
type Shared interface{ RetryEngine() *Engine }

// New returns an engine: with budget and hedger of its client where that has them, else with its own.
func New(c Config) *Engine {
	c.Policy = c.Policy.WithDefaults()
	if c.ReadTimeout == 0 {
		c.ReadTimeout = DefaultReadTimeout
	}
	if c.WriteTimeout == 0 {
		c.WriteTimeout = DefaultWriteTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Engine{Config: c}
	if c.Client != nil {
		if s, ok := c.Client.KV.(Shared); ok && s.RetryEngine() != nil {
			e.budget, e.hedger = s.RetryEngine().budget, s.RetryEngine().hedger
			return e
		}
	}
	e.budget = NewBudget(retryCapacity)
	switch {
	case c.Members != nil:
		e.hedger = NewHedger(c.Members)
	case c.Client != nil:
		e.hedger = NewHedger(ownConnection{c.Client})
	}
	return e
}

// Stats returns the counters.
func (e *Engine) Stats() Stats {
	return Stats{Calls: e.calls.Load(), Retries: e.retries.Load(), Unknown: e.unknown.Load()}
}

// Attempt makes one attempt. again says that an earlier one may have been applied, or may yet be. Its error is classified;
// a finding that must reach the caller as it is does not go through here.
type Attempt[T any] func(ctx context.Context, again bool) (T, error)

// Do makes attempts, one after the other, until one succeeds or nothing is to be gained by another. Without a deadline in
// ctx, a read is given 5 s and a write 10 s. The error is an [errs.Error].
func (e *Engine) Do(ctx context.Context, c Call, f func(ctx context.Context, again bool) error) error {
	send := func(ctx context.Context, again bool) (none struct{}, err error) { return none, f(ctx, again) }
	_, err := start(ctx, &run[struct{}]{Engine: e, call: c, send: send})
	return err
}

// Do is [Engine.Do] for a call whose every answer is final. If an attempt at a read or a guarded write is slow, a second one
// is made beside it, at another member. The first answer wins. send must be safe for concurrent use.
func Do[T any](ctx context.Context, e *Engine, c Call, send Attempt[T]) (T, error) {
	return Settle(ctx, e, c, send, nil)
}

// Settle is [Do] for a call with answers that are not final. final reports whether answer settles the call, given what is
// known of the other attempts, and may complete it; an answer that says that a write was applied always settles it. If it
// does not, that of the attempt under way is waited for, and without one a guarded write is sent again. send and final
// must be safe for concurrent use.
func Settle[T any](ctx context.Context, e *Engine, c Call, send Attempt[T], final func(ctx context.Context, answer *T, others Others) bool) (T, error) {
	return start(ctx, &run[T]{Engine: e, call: c, send: send, final: final, hedged: e.hedges(&c)})
}

// hedges reports whether a call may make second attempts beside first ones.
func (e *Engine) hedges(c *Call) bool {
	return (c.Read || c.Guarded) && e.Observed && e.hedger != nil && e.Policy.MaxAttempts > 1 && e.hedger.members.Several()
}

// start makes the call.
func start[T any](ctx context.Context, r *run[T]) (none T, err error) {
	e, c := r.Engine, &r.call
	if c.Raw && (ctx == nil || ctx.Err() != nil || e.closed()) {
		return r.send(ctx, false) // client/v3 has its own words for these
	}
	if ctx == nil {
		return none, e.refuse(c, fmt.Errorf("%w: nil context", errs.Invalid))
	}
	if ctx.Err() != nil {
		return none, e.refuse(c, ContextError(ctx))
	}
	if e.closed() {
		return none, e.refuse(c, errClientClosed)
	}
	e.calls.Add(1)
	e.budget.Call()
	r.caller, r.ctx = ctx, ctx
	_, bounded := ctx.Deadline()
	switch {
	case bounded:
	case c.Raw:
		r.until = time.Now().Add(e.timeout(c))
	default:
		r.given = e.timeout(c)
		r.ctx, r.cancel = context.WithTimeout(ctx, r.given)
		defer r.cancel()
	}
	if r.hedged && r.cancel == nil {
		r.ctx, r.cancel = context.WithCancel(ctx)
		defer r.cancel()
	}
	return r.do()
}

// errClientClosed says what is closed.
var errClientClosed = fmt.Errorf("the client is %w", errs.Closed)

// refuse is the error of a call of which nothing was sent.
func (e *Engine) refuse(c *Call, err error) error {
	return &errs.Error{Pkg: c.Pkg, Op: c.Op, Key: c.Dir + c.Key, Unchanged: true, Err: err}
}

func (e *Engine) timeout(c *Call) time.Duration {
	if c.Read {
		return e.ReadTimeout
	}
	return e.WriteTimeout
}

func (e *Engine) closed() bool {
	life := e.life()
	return life != nil && life.Err() != nil
}

// life is the context that ends with the client, nil for a client that has none.
func (e *Engine) life() context.Context {
	if e.Client == nil {
		return nil
	}
	return e.Client.Ctx()
}

// CountUnknown counts a write whose outcome was found to be unknown after the call itself had been answered.
func (e *Engine) CountUnknown() { e.unknown.Add(1) }

// ContextError is nil while ctx lives, and then an error that matches both ctx.Err() and the cause.
func ContextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == nil || errors.Is(cause, err) {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}
