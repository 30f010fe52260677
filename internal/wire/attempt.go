package wire

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// Attempt is one attempt at an RPC, and the context to make it with. It is safe for concurrent use.
type Attempt struct {
	context.Context //nolint:containedctx // the attempt is the context: one allocation per call instead of two

	observed atomic.Bool
	sent     atomic.Bool
	peer     atomic.Pointer[peer.Peer]
	via      grpc.ClientConnInterface // nil: the connection of the client
	private  bool                     // the deadline is not sent
}

// attemptKey is the key of the Attempt in a context.
type attemptKey struct{}

// Track returns an attempt for one RPC. observed means that the RPC certainly passes an observer.
// If it is false, the attempt counts as observed once an observer has reported.
func Track(ctx context.Context, observed bool) *Attempt {
	a := new(Attempt)
	a.Start(ctx, observed)
	return a
}

// Start is like [Track] for an existing attempt that was not started before.
func (a *Attempt) Start(ctx context.Context, observed bool) {
	a.Context = ctx
	if observed {
		a.observed.Store(true)
	}
}

// KeepDeadline hides the deadline of the context from gRPC. The call still ends at that time. gRPC
// would send the remaining time with the request, and the server would start a timer, which costs
// both of them microseconds. KeepDeadline must be called before the attempt is made.
func (a *Attempt) KeepDeadline() { a.private = true }

// Deadline returns the deadline that gRPC sends to the server.
func (a *Attempt) Deadline() (time.Time, bool) {
	if a.private {
		return time.Time{}, false
	}
	return a.Context.Deadline()
}

// Value returns the attempt itself if key is attemptKey, and otherwise the context's value of key.
func (a *Attempt) Value(key any) any {
	if _, ok := key.(attemptKey); ok {
		return a
	}
	return a.Context.Value(key)
}

// NotSent reports whether the request provably never left the process.
func (a *Attempt) NotSent() bool { return a.observed.Load() && !a.sent.Load() }

// Via sends the attempt over conn instead of the client's own connection. The client must be
// hardened. Via must be called before the attempt is made. If conn is nil, it has no effect.
func (a *Attempt) Via(conn grpc.ClientConnInterface) { a.via = conn }

// Peer returns the address of the member that the request was sent to. It returns "" if the request
// was not sent or its client is not hardened.
func (a *Attempt) Peer() string {
	p := a.peer.Load()
	if p == nil || p.Addr == nil {
		return ""
	}
	return p.Addr.String()
}

// Via returns the connection that replaces the client's own for an attempt with ctx, or nil if none
// does.
func Via(ctx context.Context) grpc.ClientConnInterface {
	if a := attemptOf(ctx); a != nil {
		return a.via
	}
	return nil
}

// attemptOf returns the attempt that ctx belongs to, or nil.
func attemptOf(ctx context.Context) *Attempt {
	a, _ := ctx.Value(attemptKey{}).(*Attempt)
	return a
}
