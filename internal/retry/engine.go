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
	"github.com/etcdkit/etcdkit/internal/scope"
)

// Call describes a call to the engine.
type Call struct {
	Pkg, Op string
	// Dir and Key are the two parts of the whole key.
	Dir, Key string

	// Read means that the call changes nothing.
	Read bool
	// AtMostOnce means that the write cannot be applied twice, because its comparisons can hold
	// only once.
	AtMostOnce bool
	// Persistent means that unambiguous failures are retried until the deadline, outside the
	// budget. The delays are those of the policy.
	Persistent bool
	// Raw means that the caller expects the behavior of client/v3. If ctx has no deadline, the
	// default timeout bounds only the time in which retries start. The error is that of the last
	// attempt, unchanged, or that of ctx.
	Raw bool
}

// Config configures an engine. Only Client is required.
type Config struct {
	Client *clientv3.Client
	// Observed means that every call passes an observer of package wire, so that a request that the
	// observer did not see was not sent.
	Observed     bool
	Members      Members // nil: second attempts use the client's own connection
	Policy       Policy
	ReadTimeout  time.Duration
	WriteTimeout time.Duration
	Logger       *slog.Logger
	Scope        *scope.Scope // nil: nobody observes
}

// Engine sends calls and retries them. It is safe for concurrent use and runs no goroutine.
type Engine struct {
	Config

	budget  *Budget
	hedger  *Hedger
	calls   atomic.Uint64
	retries atomic.Uint64
	unknown atomic.Uint64
}

// Stats holds the counters of an engine.
type Stats struct {
	Calls   uint64 // calls
	Retries uint64 // attempts after the first of a call
	Unknown uint64 // writes whose outcome is unknown
}

// EngineProvider is implemented by a KV that has an engine, whose budget and hedger all engines of
// its client share. RetryEngine returns nil if it has none.
type EngineProvider interface{ RetryEngine() *Engine }

// New returns an engine. It shares the budget and the hedger of its client if that has them.
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
		if s, ok := c.Client.KV.(EngineProvider); ok && s.RetryEngine() != nil {
			e.budget, e.hedger = s.RetryEngine().budget, s.RetryEngine().hedger
			return e
		}
	}
	e.budget = NewBudget(retryBudgetCapacity)
	switch {
	case c.Members != nil:
		e.hedger = NewHedger(c.Members)
	case c.Client != nil:
		e.hedger = NewHedger(clientMembers{c.Client})
	}
	return e
}

// Stats returns the counters.
func (e *Engine) Stats() Stats {
	return Stats{Calls: e.calls.Load(), Retries: e.retries.Load(), Unknown: e.unknown.Load()}
}

// SendFunc makes one attempt. repeated reports whether an earlier attempt may have been applied, or
// may still be. The error is classified, so a result that must reach the caller unchanged is part
// of T.
type SendFunc[T any] func(ctx context.Context, repeated bool) (T, error)

// Do makes attempts one after the other until one succeeds or a retry would be unsafe or of no use.
// If ctx has no deadline, ReadTimeout or WriteTimeout applies. The error is an [errs.Error].
func (e *Engine) Do(ctx context.Context, c Call, f func(ctx context.Context, repeated bool) error) error {
	send := func(ctx context.Context, repeated bool) (none struct{}, err error) { return none, f(ctx, repeated) }
	_, err := start(ctx, &run[struct{}]{Engine: e, call: c, send: send})
	return err
}

// Steps returns a function that executes one step of the call c by [Engine.Do].
func (e *Engine) Steps(c Call) func(ctx context.Context, step func(ctx context.Context) error) error {
	return func(ctx context.Context, step func(ctx context.Context) error) error {
		return e.Do(ctx, c, func(ctx context.Context, _ bool) error { return step(ctx) })
	}
}

// Do is like [Engine.Do], and makes a second attempt at another member if an attempt at a read or
// an at-most-once write is slow. The first response wins. send must be safe for concurrent use.
func Do[T any](ctx context.Context, e *Engine, c Call, send SendFunc[T]) (T, error) {
	return DoUntil(ctx, e, c, send, nil)
}

// DoUntil is like [Do], for a call with responses that are not final. evaluate reports whether
// value settles the call, given the state of the other attempts, and may complete value. It must
// return true if the response says that the write was applied. If it returns false, DoUntil waits
// for the attempt in flight; if there is none, it sends an at-most-once write again. send and
// evaluate must be safe for concurrent use.
func DoUntil[T any](ctx context.Context, e *Engine, c Call, send SendFunc[T], evaluate func(ctx context.Context, value *T, others Others) bool) (T, error) {
	return start(ctx, &run[T]{Engine: e, call: c, send: send, evaluate: evaluate, hedged: e.canHedge(&c)})
}

// canHedge reports whether a call may make second attempts in parallel with first ones.
func (e *Engine) canHedge(c *Call) bool {
	return (c.Read || c.AtMostOnce) && e.Observed && e.hedger != nil && e.Policy.MaxAttempts > 1 && e.hedger.members.HasSeveral()
}

// start makes the call.
func start[T any](ctx context.Context, r *run[T]) (none T, err error) {
	e, c := r.Engine, &r.call
	if c.Raw && (ctx.Err() != nil || e.isClosed()) {
		return r.send(ctx, false) // returns client/v3's own error
	}
	if ctx.Err() != nil {
		return none, e.notSentError(c, ContextError(ctx))
	}
	if e.isClosed() {
		return none, e.notSentError(c, errClientClosed)
	}
	e.calls.Add(1)
	e.budget.Deposit()
	r.callerCtx, r.ctx = ctx, ctx
	_, hasDeadline := ctx.Deadline()
	switch {
	case hasDeadline:
	case c.Raw:
		r.retryUntil = time.Now().Add(e.timeout(c))
	default:
		r.defaultTimeout = e.timeout(c)
		r.ctx, r.cancel = context.WithTimeout(ctx, r.defaultTimeout)
		defer r.cancel()
	}
	if r.hedged && r.cancel == nil {
		r.ctx, r.cancel = context.WithCancel(ctx)
		defer r.cancel()
	}
	return r.do()
}

// errClientClosed is the error of calls after the client was closed.
var errClientClosed = fmt.Errorf("the client is %w", errs.Closed)

// notSentError returns the error of a call of which nothing was sent.
func (e *Engine) notSentError(c *Call, err error) error {
	return &errs.Error{Pkg: c.Pkg, Op: c.Op, Key: c.Dir + c.Key, NotApplied: true, Err: err}
}

func (e *Engine) timeout(c *Call) time.Duration {
	if c.Read {
		return e.ReadTimeout
	}
	return e.WriteTimeout
}

func (e *Engine) isClosed() bool {
	clientCtx := e.clientCtx()
	return clientCtx != nil && clientCtx.Err() != nil
}

// clientCtx returns the context of the client, or nil if it has none.
func (e *Engine) clientCtx() context.Context {
	if e.Client == nil {
		return nil
	}
	return e.Client.Ctx()
}

// CountUnknown counts a write whose outcome is unknown although the call received a response.
func (e *Engine) CountUnknown() { e.unknown.Add(1) }

// ContextError returns nil if ctx has not ended. Otherwise it returns an error that matches both
// ctx.Err() and the cause.
func ContextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == nil || errors.Is(cause, err) {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}
