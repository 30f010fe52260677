package lock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// settle looks at how the place stands in the model, and wakes whoever waits. The queue's lock is held.
func (p *place) settle() {
	switch e, ahead, there := p.q.model.find(p.key); {
	case p.create == 0 || p.gone != nil || !p.q.known:
	case there && e.create == p.create && e.lease == p.s.ID():
		yes, blocker := p.spec.rule(ahead, e)
		p.admitted, p.blocker = p.admitted || yes, nil
		if blocker != nil {
			copied := *blocker
			p.blocker = &copied
		}
	case there:
		p.lose(lost(errOverwritten))
	case p.q.rev >= p.create:
		p.lose(lost(errKeyGone))
	}
	select {
	case p.bell <- struct{}{}:
	default:
	}
}

// lose notes why the key is not ours any more. The queue's lock is held; whoever holds by it is told at once.
func (p *place) lose(why error) {
	if p.gone != nil {
		return
	}
	p.gone = why
	if p.owner != nil {
		p.owner.lose(why)
	}
	select {
	case p.bell <- struct{}{}:
	default:
	}
}

// fail is lose for those who do not have the lock.
func (p *place) fail(why error) {
	p.q.mu.Lock()
	defer p.q.mu.Unlock()
	p.lose(lost(why))
}

// trouble is why the place is of no use: its session has ended, or its key is gone.
func (p *place) trouble() error {
	if err := p.s.Err(); err != nil {
		return lost(err)
	}
	p.q.mu.Lock()
	defer p.q.mu.Unlock()
	return p.gone
}

// askEvery is how often somebody who waits asks etcd while the watch is not live.
const askEvery = 500 * time.Millisecond

// await waits until the place is admitted. It ends with the session, with the own key, with ctx, and where the place can
// never be admitted. No RPC, but for the first who waits in a queue, after its watch was opened again, and now and then
// while it is not open.
func (p *place) await(ctx context.Context) error {
	if p.granted {
		return p.trouble()
	}
	p.q.l.counts.waiting.Add(1)
	defer p.q.l.counts.waiting.Add(-1)
	p.q.watch()
	ask := time.NewTicker(askEvery)
	defer ask.Stop()
	for {
		if err := cmp.Or(p.trouble(), retry.ContextError(ctx)); err != nil {
			return err
		}
		p.q.mu.Lock()
		admitted, blocker, failed := p.admitted, p.blocker, p.q.failed
		p.q.mu.Unlock()
		switch {
		case admitted:
			yes, err := p.q.confirm(ctx)
			if err == nil && yes {
				return p.trouble()
			}
			if err == nil || ctx.Err() == nil && errors.Is(err, errs.Unavailable) {
				continue // the read has taken its time
			}
			return err
		case blocker != nil:
			return &BlockedError{Name: p.spec.name, Key: blocker.key, Revision: blocker.create}
		case failed != nil:
			return fmt.Errorf("watch the queue: %w", failed)
		}
		select {
		case <-p.bell:
		case <-ask.C:
			if p.ask(ctx) {
				return p.trouble()
			}
		case <-p.s.Context().Done():
		case <-ctx.Done():
			return retry.ContextError(ctx)
		}
	}
}

// ask finds out whether the place is admitted without the watch, where that is not live.
func (p *place) ask(ctx context.Context) bool {
	if p.q.live() {
		return false
	}
	ctx, stop := context.WithTimeout(ctx, attemptFirst)
	defer stop()
	entries, _, err := p.q.l.children(ctx, p.q.prefix)
	if err != nil {
		return false // next time
	}
	p.q.l.counts.confirmed.Add(1)
	var m model
	m.reset(entries)
	e, ahead, there := m.find(p.key)
	switch {
	case !there || e.create != p.create:
		p.fail(errKeyGone)
		return false
	case e.lease != p.s.ID():
		p.fail(errOverwritten)
		return false
	}
	p.asked, _ = p.spec.rule(ahead, e)
	return p.asked
}
