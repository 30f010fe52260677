package etcdkit

import (
	"context"

	"github.com/etcdkit/etcdkit/internal/scope"
)

// WithObserver sets hooks for metrics and tracing. Default: none.
func WithObserver(obs Observer) Option { return func(o *options) { o.observer = obs } }

// Observer is a set of optional hooks for tracing and for metrics that [Client.Metrics] does not
// have, such as durations. A nil hook costs nothing.
//
// A hook runs on the goroutine that triggers it, so it must return quickly, with the context of the
// call. Exceptions are LeaseLost and the end of a lock that is lost, which have goroutines of their
// own, and work that no single call causes, such as the resync of a watch, whose context has no
// values of a caller. Hooks must be safe for concurrent use. A panic in a hook is recovered and
// logged.
type Observer struct {
	// Operation is called when an operation begins, and the function that it returns when the
	// operation ends. The operation continues with the context that Operation returns, which must
	// be derived from ctx. Either result may be nil. See [Operation].
	Operation func(ctx context.Context, op Operation) (context.Context, func(OperationResult))
	// Retry is called before a request is repeated, with the request, the number of the failed
	// attempt, counted from 1, and its error. ctx belongs to the operation that needs the request.
	Retry func(ctx context.Context, op Operation, attempt int, err error)
	// LeaseLost is called when a session ends other than by being closed. ctx ends with the client.
	LeaseLost func(ctx context.Context, cause error)
	// WatchResync is called when a watch continues from the current state because its history was
	// lost. folded is the number of changes that it reported for the difference.
	WatchResync func(ctx context.Context, selector string, folded int)
	// CacheLookup is called for each read of a Cache that was opened with the client. dir is the
	// dir of the Cache; hit reports whether it answered from memory.
	CacheLookup func(ctx context.Context, dir string, hit bool)
}

// Operation identifies an operation for [Observer]. Operations may contain others: a cache fills an
// entry with a transaction of the store.
//
//	Package    Name                      Target   lasts
//	kv         the method, such as put   ""       until it returns, with a loop over List
//	lock       wait, try, campaign       name     until the lock is held, or not
//	lock       hold                      name     until the lock is released or lost
//	watch      resync                    ""       until the state is delivered again
//	cache      fill                      dir      for one read of etcd, shared by all callers
//	discovery  register                  service  until Register returns
//
// Names of several words are separated by spaces, as in "delete prefix". In [Observer.Retry], Name
// is a request, which may be a part of an operation, and Target is "".
type Operation struct {
	Package, Name string
	Target        string // a name that the program chose, never a key or a value
}

// OperationResult is the result of an [Operation].
type OperationResult struct {
	Err      error // why it failed, or why a lock was lost; its text may contain keys
	Attempts int   // requests sent to etcd, including repeated ones
	Revision int64 // of what was written or read; a fencing token for locks; 0 if there is none
}

// hooks returns the hooks for the packages below, which cannot import this one.
func (o *Observer) hooks() scope.Hooks {
	h := scope.Hooks{LeaseLost: o.LeaseLost, WatchResync: o.WatchResync, CacheLookup: o.CacheLookup}
	if o.Operation != nil {
		h.Operation = func(ctx context.Context, op scope.Operation) (context.Context, func(scope.Result)) {
			next, end := o.Operation(ctx, Operation(op))
			if end == nil {
				return next, nil
			}
			return next, func(r scope.Result) { end(OperationResult(r)) }
		}
	}
	if o.Retry != nil {
		h.Retry = func(ctx context.Context, op scope.Operation, attempt int, err error) {
			o.Retry(ctx, Operation(op), attempt, err)
		}
	}
	return h
}
