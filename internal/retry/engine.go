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
	Pkg, Op, Key string

	// Read says that the call changes nothing.
	Read bool
	// Guarded says of a write that a second application is impossible, because what it compares can hold only once.
	Guarded bool
	// Raw says that the caller expects client/v3 itself. Without a deadline in ctx attempts are not bounded, only the time
	// in which others begin. The error is that of the last attempt, as it came, or that of ctx.
	Raw bool
}

// Config is what an engine is made of. All of it is optional but Client.
type Config struct {
	Client       *clientv3.Client
	Observed     bool // every call passes an observer of wire: what it did not see was not sent
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

// Funded is a KV that keeps the budget of all engines of its client.
type Funded interface{ RetryBudget() *Budget }

// RetryBudget is what the engine takes retries out of.
func (e *Engine) RetryBudget() *Budget { return e.budget }

// New returns an engine: with the budget of its client where that has one, else with a full budget of its own.
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
		if f, ok := c.Client.KV.(Funded); ok {
			e.budget = f.RetryBudget()
		}
	}
	if e.budget == nil {
		e.budget = NewBudget()
	}
	return e
}

// Stats returns the counters.
func (e *Engine) Stats() Stats {
	return Stats{Calls: e.calls.Load(), Retries: e.retries.Load(), Unknown: e.unknown.Load()}
}

// Attempt makes one attempt. doubt says that an earlier one may have been applied. Its error is classified; a finding
// that must reach the caller as it is does not go through here.
type Attempt func(ctx context.Context, doubt bool) error

// Do makes attempts until one succeeds or nothing is to be gained by another. Without a deadline in ctx, a read is given
// 5 s and a write 10 s. The error is an [errs.Error].
func (e *Engine) Do(ctx context.Context, c Call, f Attempt) error {
	if c.Raw && (ctx == nil || ctx.Err() != nil || e.closed()) {
		return f(ctx, false) // client/v3 has its own words for these
	}
	if ctx == nil {
		return e.refuse(c, fmt.Errorf("%w: nil context", errs.Invalid))
	}
	if ctx.Err() != nil {
		return e.refuse(c, ContextError(ctx))
	}
	if e.closed() {
		return e.refuse(c, errClientClosed)
	}
	e.calls.Add(1)
	e.budget.Call()
	r := run{Engine: e, call: c, ctx: ctx}
	switch _, ok := ctx.Deadline(); {
	case ok:
	case c.Raw:
		r.until = time.Now().Add(e.timeout(c))
	default:
		r.given = e.timeout(c)
		var stop context.CancelFunc
		r.ctx, stop = context.WithTimeout(ctx, r.given)
		defer stop()
	}
	return r.do(f)
}

// errClientClosed says what is closed.
var errClientClosed = fmt.Errorf("the client is %w", errs.Closed)

// refuse is the error of a call of which nothing was sent.
func (e *Engine) refuse(c Call, err error) error {
	return &errs.Error{Pkg: c.Pkg, Op: c.Op, Key: c.Key, Unchanged: true, Err: err}
}

func (e *Engine) timeout(c Call) time.Duration {
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
