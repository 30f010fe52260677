package wire

import (
	"context"
	"sync/atomic"
)

// Attempt is one try at an RPC, and the context to make it with. It is safe for concurrent use.
type Attempt struct {
	context.Context //nolint:containedctx // the attempt is the context: one allocation instead of two on every call

	observed atomic.Bool
	sent     atomic.Bool
}

// attemptKey finds the Attempt of a context.
type attemptKey struct{}

// Track returns an attempt to make one RPC with. observed says that the RPC will certainly pass an observer; where it
// is false, the attempt is observed once an observer reports.
func Track(ctx context.Context, observed bool) *Attempt {
	a := &Attempt{Context: ctx}
	if observed {
		a.observed.Store(true)
	}
	return a
}

// Value finds the attempt itself, and what the context below it holds.
func (a *Attempt) Value(key any) any {
	if _, ok := key.(attemptKey); ok {
		return a
	}
	return a.Context.Value(key)
}

// NotSent reports whether the request provably never left the process.
func (a *Attempt) NotSent() bool { return a.observed.Load() && !a.sent.Load() }

// attemptOf returns the attempt that ctx was made with, or nil.
func attemptOf(ctx context.Context) *Attempt {
	a, _ := ctx.Value(attemptKey{}).(*Attempt)
	return a
}
