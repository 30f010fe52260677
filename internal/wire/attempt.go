package wire

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// Attempt is one try at an RPC, and the context to make it with. It is safe for concurrent use.
type Attempt struct {
	context.Context //nolint:containedctx // the attempt is the context: one allocation instead of two on every call

	observed atomic.Bool
	sent     atomic.Bool
	peer     atomic.Pointer[peer.Peer]
	via      grpc.ClientConnInterface // nil: the connection of the client
	private  bool                     // the deadline is not sent
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

// KeepDeadline keeps the deadline of the context from gRPC, which ends the call at that time all the same. gRPC would send
// the time that is left with the request, and the server would start a timer, which costs both of them microseconds. It is
// called before the attempt is made.
func (a *Attempt) KeepDeadline() { a.private = true }

// Deadline returns the deadline that the server is told.
func (a *Attempt) Deadline() (time.Time, bool) {
	if a.private {
		return time.Time{}, false
	}
	return a.Context.Deadline()
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
	p := a.peer.Load()
	if p == nil || p.Addr == nil {
		return ""
	}
	return p.Addr.String()
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
