package wire

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// Attempt is one try at an RPC, and the context to make it with. It is safe for concurrent use.
type Attempt struct {
	context.Context //nolint:containedctx // the attempt is the context: one allocation instead of two on every call

	observed atomic.Bool
	sent     atomic.Bool
	header   atomic.Pointer[stats.OutHeader]
	via      grpc.ClientConnInterface // nil: the connection of the client
}

// attemptKey finds the Attempt of a context.
type attemptKey struct{}

// Track returns an attempt to make one RPC with. observed says that the RPC will certainly pass an observer; where it
// is false, the attempt is observed once an observer reports.
func Track(ctx context.Context, observed bool) *Attempt {
	a := new(Attempt)
	a.Start(ctx, observed)
	return a
}

// Start is [Track] for an attempt that exists, and that was not started before.
func (a *Attempt) Start(ctx context.Context, observed bool) {
	a.Context = ctx
	if observed {
		a.observed.Store(true)
	}
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

// Via sends the attempt over conn instead of the connection of its client, which must be hardened. It is called before the
// attempt is made. nil changes nothing.
func (a *Attempt) Via(conn grpc.ClientConnInterface) { a.via = conn }

// Peer is the address of the member that the request was sent to, "" where it was not sent, or not over a hardened client.
func (a *Attempt) Peer() string {
	h := a.header.Load()
	if h == nil || h.RemoteAddr == nil {
		return ""
	}
	return h.RemoteAddr.String()
}

// Via returns the connection that an attempt with ctx is to be sent over instead of that of its client, or nil.
func Via(ctx context.Context) grpc.ClientConnInterface {
	if a := attemptOf(ctx); a != nil {
		return a.via
	}
	return nil
}

// attemptOf returns the attempt that ctx was made with, or nil.
func attemptOf(ctx context.Context) *Attempt {
	a, _ := ctx.Value(attemptKey{}).(*Attempt)
	return a
}
