package scope

import (
	"context"
	"runtime/debug"
	"sync/atomic"
)

// Hooks are the functions of an observer. Each may be nil.
type Hooks struct {
	Operation   func(ctx context.Context, op Operation) (context.Context, func(Result))
	Retry       func(ctx context.Context, op Operation, attempt int, err error)
	LeaseLost   func(ctx context.Context, cause error)
	WatchResync func(ctx context.Context, selector string, folded int)
	CacheLookup func(ctx context.Context, dir string, hit bool)
}

// Operation identifies an operation. It has the fields of etcdkit.Operation.
type Operation struct{ Package, Name, Target string }

// Result is the result of an operation. It has the fields of etcdkit.OperationResult.
type Result struct {
	Err      error
	Attempts int
	Revision int64
}

// Running is an operation that has begun. The zero value is one that nobody observes.
type Running struct{ *running }

type running struct {
	scope    *Scope
	outer    *running // the operation of which this one is a part; nil if there is none
	end      func(Result)
	attempts atomic.Int64
}

// runningKey is the key of a *running in a context.
type runningKey struct{}

// Begin calls the Operation hook and returns the context of the operation. [Running.End] must
// follow. Without the hook, Begin returns ctx, and neither allocates.
func (s *Scope) Begin(ctx context.Context, op Operation) (context.Context, Running) {
	if s == nil || s.hooks.Operation == nil {
		return ctx, Running{}
	}
	r := &running{scope: s, outer: runningIn(ctx)}
	var observed context.Context
	s.call(ctx, "Operation", func() { observed, r.end = s.hooks.Operation(ctx, op) }) //nolint:fatcontext // called once
	if observed == nil {
		observed = ctx
	}
	return context.WithValue(observed, runningKey{}, r), Running{r}
}

// runningIn returns the operation of ctx, or nil.
func runningIn(ctx context.Context) *running {
	r, _ := ctx.Value(runningKey{}).(*running)
	return r
}

// BeginDetached is [Scope.Begin] for an operation that outlives the call that has ctx. The hook's
// context has the values of ctx, but does not end with it.
func (s *Scope) BeginDetached(ctx context.Context, op Operation) Running {
	if s == nil || s.hooks.Operation == nil {
		return Running{}
	}
	_, r := s.Begin(context.WithoutCancel(ctx), op)
	return r
}

// End reports the end of the operation. rev is 0 if there is none.
func (r Running) End(err error, rev int64) {
	if r.running == nil || r.end == nil {
		return
	}
	r.scope.call(context.Background(), "Operation", func() { //nolint:forbidigo // for the log only
		r.end(Result{Err: err, Attempts: int(r.attempts.Load()), Revision: rev})
	})
}

// EndSoon is [Running.End] on a goroutine of its own, for callers that hold locks.
func (r Running) EndSoon(err error, rev int64) {
	if r.running != nil && r.end != nil {
		r.scope.soon(func() { r.End(err, rev) })
	}
}

// Attempt counts an attempt of a request for the operation of ctx and those that contain it.
func (s *Scope) Attempt(ctx context.Context) {
	if s == nil || s.hooks.Operation == nil {
		return
	}
	for r := runningIn(ctx); r != nil; r = r.outer {
		r.attempts.Add(1)
	}
}

// Retry calls the Retry hook.
func (s *Scope) Retry(ctx context.Context, op Operation, attempt int, err error) {
	if s != nil && s.hooks.Retry != nil {
		s.call(ctx, "Retry", func() { s.hooks.Retry(ctx, op, attempt, err) })
	}
}

// HoldHooks makes WaitHooks wait until release is called, for a hook that is about to be called.
func (s *Scope) HoldHooks() (release func()) {
	if s == nil {
		return func() {}
	}
	s.calls.add()
	return s.calls.done
}

// LeaseLost calls the LeaseLost hook on a goroutine of its own.
func (s *Scope) LeaseLost(ctx context.Context, cause error) {
	if s != nil && s.hooks.LeaseLost != nil {
		s.soon(func() { s.call(ctx, "LeaseLost", func() { s.hooks.LeaseLost(ctx, cause) }) })
	}
}

// WatchResync calls the WatchResync hook.
func (s *Scope) WatchResync(ctx context.Context, selector string, folded int) {
	if s != nil && s.hooks.WatchResync != nil {
		s.call(ctx, "WatchResync", func() { s.hooks.WatchResync(ctx, selector, folded) })
	}
}

// CacheLookup returns a function that calls the CacheLookup hook, or nil if there is none.
func (s *Scope) CacheLookup() func(ctx context.Context, dir string, hit bool) {
	if s == nil || s.hooks.CacheLookup == nil {
		return nil
	}
	return func(ctx context.Context, dir string, hit bool) {
		s.call(ctx, "CacheLookup", func() { s.hooks.CacheLookup(ctx, dir, hit) })
	}
}

// WaitHooks waits until no hook runs on a goroutine of its own, or until ctx ends, which is the
// error.
func (s *Scope) WaitHooks(ctx context.Context) error {
	if s == nil {
		return nil
	}
	return s.calls.wait(ctx)
}

// soon runs f on a goroutine that WaitHooks waits for.
func (s *Scope) soon(f func()) {
	s.calls.add()
	go func() {
		defer s.calls.done()
		f()
	}()
}

// call runs a hook. A panic is recovered and logged, because it must not end a goroutine that
// others depend on, nor keep a lock from being released.
func (s *Scope) call(ctx context.Context, hook string, f func()) {
	defer func() {
		if p := recover(); p != nil {
			s.logger.ErrorContext(ctx, "observer hook panicked", "hook", hook, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	f()
}
