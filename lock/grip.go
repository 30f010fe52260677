package lock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/kv"
)

// watchAfter is how long something is held before its key is watched, where it is not watched already: short holds cost
// no watch, and the holders of long ones are told in time when somebody deletes their key.
const watchAfter = 250 * time.Millisecond

// grip is what a [Permit] is in the end: a place that was admitted, from the grant to the release or the loss. It uses
// its queue and, where there is one, stands at the head of its line.
type grip struct {
	p     *place
	line  *line // nil: the place is nobody else's afterwards
	token int64

	inner  context.Context //nolint:containedctx // what Context returns is made of it
	cancel context.CancelCauseFunc
	unlink func() bool // from the session
	timer  *time.Timer

	writing chan struct{} // full while somebody proclaims

	mu       sync.Mutex
	cause    error // why it is over; nil while it is held
	released bool
}

// hold makes a grip of an admitted place. The caller's use of the queue becomes the grip's.
func (p *place) hold(n *line, token int64) *grip {
	l := p.q.l
	g := &grip{p: p, line: n, token: token, writing: make(chan struct{}, 1)}
	g.inner, g.cancel = context.WithCancelCause(context.WithoutCancel(l.life))
	l.counts.acquired.Add(1)
	l.counts.held.Add(1)
	if n != nil {
		n.began(g, !p.used)
	}
	p.used = true
	p.q.mu.Lock()
	p.owner = g
	if p.gone != nil {
		g.lose(p.gone)
	}
	p.q.mu.Unlock()
	g.unlink = context.AfterFunc(p.s.Context(), func() { g.lose(p.s.Err()) })
	g.timer = time.AfterFunc(l.watchAfter, p.q.watch) // may be late, when it has no user any more
	return g
}

// lose ends the hold, unless it has ended. It may be called under the queue's lock.
func (g *grip) lose(why error) {
	g.mu.Lock()
	if g.cause != nil {
		g.mu.Unlock()
		return
	}
	g.cause = lost(why)
	g.mu.Unlock()
	l := g.p.q.l
	l.counts.lost.Add(1)
	l.counts.held.Add(-1)
	g.cancel(g.cause)
	l.spawn(func() { // not under a lock of the queue's
		l.logger.WarnContext(l.life, "lock lost", "name", errs.Short(g.p.spec.name), "cause", why)
	})
}

func (g *grip) context() context.Context { return gripContext{g.inner, g} }

// err looks at the clock, as that of the session does.
func (g *grip) err() error {
	if err := g.why(); err != nil {
		return err
	}
	if err := g.p.s.Err(); err != nil {
		g.lose(err)
	}
	return g.why()
}

func (g *grip) why() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cause
}

// compares is what holds in etcd as long as the hold does. A key in a line is put again for each turn: there the mod
// revision tells one hold from the next; a key that is its holder's alone may be put again by him.
func (g *grip) compares() []clientv3.Cmp {
	key := g.p.q.l.ns + g.p.key
	if g.line != nil {
		return []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", g.token)}
	}
	return []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", g.p.create)}
}

func (g *grip) guard() kv.Guard { return kv.NewGuard(ErrLost, g.compares()...) }

func (g *grip) name() string { return g.p.spec.name }

// verify asks etcd whether the key is there.
func (g *grip) verify(ctx context.Context) error {
	ctx, done, err := g.p.q.l.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := g.err(); err != nil {
		return err
	}
	resp, err := g.p.q.l.definite(ctx, txn{then: []clientv3.Op{clientv3.OpGet(g.p.key)}})
	if err != nil {
		return err
	}
	switch kvs := resp.get(0).GetKvs(); {
	case len(kvs) == 0 || kvs[0].GetCreateRevision() != g.p.create:
		g.lose(errKeyGone)
	case kvs[0].GetLease() != int64(g.p.s.ID()):
		g.lose(errOverwritten)
	}
	return g.err()
}

// release ends the hold. What was lost is cleaned up after, in the background.
func (g *grip) release(ctx context.Context) error {
	if ctx == nil {
		return errNoContext
	}
	first, why := g.detach()
	switch {
	case !first:
		return ErrReleased
	case why != nil:
		g.abandon()
		return why
	case g.handOver():
		return nil
	}
	return g.leave(ctx)
}

// drop ends the hold without waiting for anything.
func (g *grip) drop() {
	if first, why := g.detach(); first && (why != nil || !g.handOver()) {
		g.abandon()
	}
}

// detach notes the release, and that nobody holds by the place any more. It reports whether this was the first time, and
// why the hold was lost before, if it was.
func (g *grip) detach() (first bool, why error) {
	if first, why = g.end(); first {
		g.unlink()
		g.timer.Stop()
		g.p.q.mu.Lock()
		g.p.owner = nil
		g.p.q.mu.Unlock()
	}
	return first, why
}

// handOver lets the next goroutine of the line have the place, if there is one and it is not another process's turn.
func (g *grip) handOver() bool {
	if g.line == nil || !g.line.keep(g.p) {
		return false
	}
	g.p.q.exit()
	return true
}

// abandon leaves the removal of the key to the background.
func (g *grip) abandon() {
	g.p.discard()
	if g.line != nil {
		g.line.give(nil)
	}
	g.p.q.exit()
}

// end notes the release.
func (g *grip) end() (first bool, why error) {
	lostBefore := g.err()
	g.mu.Lock()
	if g.released {
		g.mu.Unlock()
		return false, nil
	}
	g.released = true
	if lostBefore == nil {
		lostBefore = g.cause // a moment ago
	}
	if g.cause == nil {
		g.cause = ErrReleased
		g.p.q.l.counts.held.Add(-1)
	}
	g.mu.Unlock()
	g.cancel(ErrReleased)
	return true, lostBefore
}

// leave removes the key, and waits for that until ctx ends, and 5 s at most; what is not done by then is done in the
// background. A context that had ended before is not asked.
func (g *grip) leave(ctx context.Context) error {
	defer g.p.q.exit()
	if g.line != nil {
		defer g.line.give(nil)
	}
	if ctx.Err() != nil {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, stop := context.WithTimeout(ctx, farewell)
	defer stop()
	ctx, done, err := g.p.q.l.begin(ctx)
	if err != nil {
		return err // closed: Close removes the key
	}
	defer done()
	err = g.p.remove(ctx)
	if err != nil && !errors.Is(err, ErrLost) && !errors.Is(err, errs.UnknownOutcome) {
		return fmt.Errorf("%w: %w", errs.UnknownOutcome, err) // of the work that goes on
	}
	return err
}

// gripContext is the context of a hold. It is a cancellable context of the standard library, but its Err also looks at the
// clock.
type gripContext struct {
	context.Context //nolint:containedctx // it is one

	g *grip
}

// Err is nil while the hold can be relied on.
func (c gripContext) Err() error {
	if cause := c.g.err(); cause != nil {
		c.g.cancel(cause) // may be ahead of whoever ended it a moment ago
	}
	return c.Context.Err()
}
