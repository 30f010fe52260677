package lock

import (
	"context"
	"errors"
	"fmt"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

var errNoContext = fmt.Errorf("%w: nil context", errs.Invalid)

// heldState is the state of something that is held: one [hold], or several.
type heldState interface {
	context() context.Context
	err() error
	guard() kv.Guard
	verify(ctx context.Context) error
	release(ctx context.Context) error
	name() string
}

// Permit is a shared hold: a semaphore's permit or a read lock. It has no token, because several are held at once and
// "refuse what is lower than the highest seen" would refuse rightful holders. It is safe for concurrent use.
//
// A Permit is got from a lock, and given back with Release. The zero value is of no use.
type Permit struct{ hold heldState }

// Context ends when the hold is lost, with a cause that matches [ErrLost], before the lease can expire on the server; and
// when it is released, with [ErrReleased]. It does not end with the context that was given to the call that acquired
// it. Its Err looks at the clock each time, so that it is right in a process that was just continued. What third parties do
// ends it as soon as [Permit.Err] knows.
func (p *Permit) Context() context.Context { return p.hold.context() }

// Bind returns a context that ends with ctx, and with the hold: its cause then matches [ErrLost] or [ErrReleased]. Its Err
// looks at the clock as that of Context does. stop releases what it takes, and ends it.
func (p *Permit) Bind(ctx context.Context) (bound context.Context, stop context.CancelFunc) {
	inner, cancel := context.WithCancelCause(ctx)
	over := p.hold.context()
	unlink := context.AfterFunc(over, func() { cancel(context.Cause(over)) })
	return boundContext{inner, p.hold, cancel}, func() {
		unlink()
		cancel(nil)
	}
}

// boundContext ends with a hold and something else.
type boundContext struct {
	context.Context //nolint:containedctx // it is one

	hold   heldState
	cancel context.CancelCauseFunc
}

// Err is nil while the hold can be relied on and the other context lives.
func (c boundContext) Err() error {
	if err := c.Context.Err(); err != nil {
		return err
	}
	if cause := c.hold.err(); cause != nil {
		c.cancel(cause)
	}
	return c.Context.Err()
}

// Err is nil while the hold can be relied on, as far as the clock and the watch tell: no RPC. Then it matches [ErrLost] or
// [ErrReleased]. That a third party has revoked the lease or deleted the key is known when the watch tells, which begins
// 250 ms after the grant, and within a second: [Permit.Verify] asks, and a guard needs to know nothing.
func (p *Permit) Err() error { return p.hold.err() }

// Guard is for kv.WithGuard: etcd refuses a write that carries it once the hold is over, whatever the writer believes,
// with an error that matches kv.ErrGuard and [ErrLost]. No RPC.
func (p *Permit) Guard() kv.Guard { return p.hold.guard() }

// Verify asks etcd whether the hold is still there: nil, or an error that matches [ErrLost] if it is not, and any other error
// where etcd did not tell. One RPC, for a [MultiHeld] one for each of its mutexes; none where the loss is known. It says
// nothing about the next moment; a guard does.
func (p *Permit) Verify(ctx context.Context) error {
	if err := p.hold.verify(ctx); err != nil {
		return fail("verify", p.hold.name(), err)
	}
	return nil
}

// Release gives back what is held. Its context ends before anything is sent. One RPC, for a [MultiHeld] one for each of its
// mutexes; none where another goroutine of this process takes over.
//
// It waits until ctx ends, for 10 s if ctx has no deadline; if ctx has already ended, it makes its attempt all the same,
// bounded by 5 s. If etcd has not answered by then it returns [ErrUnknownOutcome], and the work goes on: a key that cannot
// be removed now is removed in the background, or ends with its lease. Release of something that was lost returns [ErrLost]. A second Release does nothing and returns
// [ErrReleased].
func (p *Permit) Release(ctx context.Context) error {
	err := p.hold.release(ctx)
	if err == nil {
		return nil
	}
	return doubtful("release", p.hold.name(), err)
}

// Held is an exclusive hold: a mutex, a write lock, a leadership. It has the methods of [Permit]: Context, Err, Guard, Verify,
// Bind and Release.
type Held struct{ Permit }

// Token is the fencing token: the revision of etcd at which the lock was found to be the holder's, or, of a [Leadership], the create
// revision of its key. It strictly rises from one holder of a name to
// the next, whichever process they are in. Other systems are made safe by refusing what comes with a lower token than
// the highest they have seen. Tokens compare within one name and one kind: those of a [Mutex], of the writers of an
// [RWMutex], and of an [Election] have nothing to do with one another. No RPC.
func (h *Held) Token() int64 {
	if one, ok := h.hold.(*hold); ok {
		return one.token
	}
	return 0
}

// Func is work under a lock: ctx is the caller's, and also ends, with cause [ErrLost], when the lock is lost.
// h.Context() ends only with the lock: it is the context for finishing after the caller's has ended.
type Func = func(ctx context.Context, h *Held) error

// SharedFunc is work under a permit, as [Func] is under a lock.
type SharedFunc = func(ctx context.Context, p *Permit) error

// work runs f under a hold, and releases that also when f panics. A loss that f did not report is an error: what f did
// last may not have been alone.
func (p *Permit) work(ctx context.Context, l *Locker, f func(ctx context.Context) error) (err error) {
	done, err := l.beginFunc()
	if err != nil {
		_ = p.Release(ctx) // lost with the locker: the error would be the same
		return doubtful("do", p.hold.name(), lost(err))
	}
	defer done()
	bound, stop := p.Bind(ctx)
	defer func() {
		stop()
		released := p.Release(ctx)
		if released != nil && !errors.Is(released, ErrReleased) && !errors.Is(err, ErrLost) {
			err = errors.Join(err, released)
		}
	}()
	return f(bound)
}
