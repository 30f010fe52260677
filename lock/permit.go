package lock

import (
	"context"
	"errors"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// heldState is the state of a hold: one [hold], or several.
type heldState interface {
	context() context.Context
	err() error
	guard() kv.Guard
	verify(ctx context.Context) error
	release(ctx context.Context) error
	name() string
}

// Permit is a shared hold: a permit of a semaphore or a read lock. It has no token, because several
// are held at once, and a rule that refuses tokens lower than the highest seen would refuse valid
// holders. It is safe for concurrent use.
//
// Locks return Permits, and Release gives them back. The zero value is not usable.
type Permit struct{ holdMethods }

// holdMethods has the methods of [Permit], [Held] and [MultiHeld]. It is not exported, so that the
// documentation lists them under each of these types.
type holdMethods struct{ hold heldState }

// Context returns a context that ends when the hold is lost or released. After a loss its cause
// matches [ErrLost], and it ends before the lease can expire on the server. After a release its
// cause is [ErrReleased]. It does not end with the context of the call that acquired the hold. Its
// Err checks the clock each time, so that it is correct in a process that was stopped and
// continued. What third parties do ends it as soon as Err detects it.
func (h *holdMethods) Context() context.Context { return h.hold.context() }

// Bind returns a context that ends with ctx and with the hold. In the second case its cause matches
// [ErrLost] or [ErrReleased]. Its Err checks the clock as that of Context does. stop ends the
// context and releases its resources.
func (h *holdMethods) Bind(ctx context.Context) (bound context.Context, stop context.CancelFunc) {
	bound, cancel := context.WithCancelCause(ctx)
	holdCtx := h.hold.context()
	detach := context.AfterFunc(holdCtx, func() { cancel(context.Cause(holdCtx)) })
	return boundContext{bound, h.hold, cancel}, func() {
		detach()
		cancel(nil)
	}
}

// boundContext ends with a hold and with another context.
type boundContext struct {
	context.Context //nolint:containedctx // it is one

	hold   heldState
	cancel context.CancelCauseFunc
}

// Err returns nil while the hold is valid and the other context has not ended.
func (c boundContext) Err() error {
	if err := c.Context.Err(); err != nil {
		return err
	}
	if cause := c.hold.err(); cause != nil {
		c.cancel(cause)
	}
	return c.Context.Err()
}

// Err returns nil while the hold is valid as far as the clock and the watch show. Otherwise it
// returns an error that matches [ErrLost] or [ErrReleased]. It sends no RPC. The watch begins 250
// ms after the grant, and reports within a second that a third party has revoked the lease or
// deleted the key. Verify asks etcd. A guard is safe without either.
func (h *holdMethods) Err() error { return h.hold.err() }

// Guard returns a guard for kv.WithGuard. Once the hold is over, etcd refuses a write with the
// guard, even if the writer does not know of the end yet. The error matches kv.ErrGuard and
// [ErrLost]. Guard sends no RPC.
func (h *holdMethods) Guard() kv.Guard { return h.hold.guard() }

// Verify asks etcd whether the hold still exists. It returns nil if so, an error that matches
// [ErrLost] if not, and another error if etcd does not answer. After Release it returns
// [ErrReleased]. It costs one RPC, or one for each mutex of a [MultiHeld], and none if the end is
// already known. The hold may end right after Verify returns; to protect a write, use Guard.
func (h *holdMethods) Verify(ctx context.Context) error {
	if err := h.hold.verify(ctx); err != nil {
		return opError("verify", h.hold.name(), err)
	}
	return nil
}

// Release ends the hold. Its context ends before anything is sent. Release costs one RPC, or one
// for each mutex of a [MultiHeld], and none if another goroutine of this process takes over.
//
// Release waits until ctx ends, and for 10 s if ctx has no deadline. If ctx has already ended, it
// still tries, for 5 s. If etcd has not answered by then, it returns [ErrUnknownOutcome], and the
// removal continues: a key that cannot be removed now is removed in the background or ends with its
// lease. A second Release does nothing and returns [ErrReleased].
//
// A lost hold must be released too: Release returns [ErrLost], and until it is called, other
// goroutines that use the same [Locker] do not acquire the lock.
func (h *holdMethods) Release(ctx context.Context) error {
	err := h.hold.release(ctx)
	if err == nil {
		return nil
	}
	return opError("release", h.hold.name(), err)
}

// Held is an exclusive hold: a mutex, a write lock or a leadership. It has a fencing token. It is
// safe for concurrent use. Release ends it. The zero value is not usable.
type Held struct{ holdMethods }

// Token returns the fencing token. It is the etcd revision at which the holder was seen to have the
// lock, or, for a [Leadership], the create revision of its key. It strictly rises from one holder
// of a name to the next, in whichever process they are. Another system is safe if it refuses a
// token that is lower than the highest that it has seen. Compare tokens of one name and one kind
// only: those of a [Mutex], of the writers of an [RWMutex], and of an [Election] are unrelated, and
// so are revisions that other clients use as tokens. Token sends no RPC.
func (h *Held) Token() int64 {
	if one, ok := h.hold.(*hold); ok {
		return one.token
	}
	return 0
}

// Func is a function that runs under a lock. ctx is derived from the caller's context and also
// ends, with cause [ErrLost], when the lock is lost. h.Context() ends only with the lock. Use it to
// finish work after the caller's context has ended.
type Func = func(ctx context.Context, h *Held) error

// SharedFunc is a function that runs under a permit, as [Func] is one that runs under a lock.
type SharedFunc = func(ctx context.Context, p *Permit) error

// run calls f under the hold and releases it, also if f panics. A loss that f did not report is an
// error, because f may not have been alone at the end.
func (h *holdMethods) run(ctx context.Context, l *Locker, f func(ctx context.Context) error) (err error) {
	done, err := l.startFunc()
	if err != nil {
		_ = h.Release(ctx) // lost with the locker: the error would be the same
		return opError("do", h.hold.name(), newLostError(err))
	}
	defer done()
	bound, stop := h.Bind(ctx)
	defer func() {
		stop()
		released := h.Release(ctx)
		if released != nil && !errors.Is(released, ErrReleased) && !errors.Is(err, ErrLost) {
			err = errors.Join(err, released)
		}
	}()
	return f(bound)
}

// runShared runs f under a permit that acquire returns.
func runShared(ctx context.Context, l *Locker, name string, f SharedFunc, acquire func(context.Context) (*Permit, error)) error {
	if f == nil {
		return opError("do", name, errs.Invalidf("no function"))
	}
	p, err := acquire(ctx)
	if err != nil {
		return err
	}
	return p.run(ctx, l, func(ctx context.Context) error { return f(ctx, p) })
}
