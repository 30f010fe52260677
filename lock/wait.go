package lock

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// settle looks at how the place stands in the model, and wakes whoever waits. The queue's lock is held.
func (p *place) settle() {
	switch e, ahead, there := p.q.model.find(p.key); {
	case p.create == 0 || p.gone != nil || !p.q.known:
	case there && e.create == p.create && e.lease == p.s.ID():
		if p.admitted {
			break // and stays so
		}
		yes, blocker := p.spec.rule(ahead, e)
		p.admitted, p.blocker = yes, nil
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
	ctx, stop := p.bind(ctx) // also where etcd is asked
	defer stop()
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
			if over, err := p.confirmed(ctx); over {
				return err
			}
			continue
		case blocker != nil:
			return blockedBy(p.spec.name, blocker)
		case failed != nil:
			return fmt.Errorf("watch the queue: %w", failed)
		}
		select {
		case <-p.bell:
		case <-ask.C:
			if p.ask(ctx) {
				return p.trouble()
			}
		case <-ctx.Done():
		}
	}
}

// confirmed makes sure of a place that was found admitted. over says that the wait is; if not, it is to be looked at again.
func (p *place) confirmed(ctx context.Context) (over bool, err error) {
	yes, err := p.q.confirm(ctx)
	switch {
	case err == nil && yes:
		return true, p.trouble()
	case err == nil:
		return false, nil
	case ctx.Err() != nil || hopeless(err):
		return true, cmp.Or(p.trouble(), err)
	}
	sleep(ctx, pauseBetween) // it may have been refused at once
	return false, nil
}

// ask finds out whether the place is admitted without the watch, where that is not live.
func (p *place) ask(ctx context.Context) bool {
	entries, ok := p.q.poll(ctx)
	if !ok {
		return false
	}
	i := slices.IndexFunc(entries, func(e entry) bool { return e.key == p.key })
	if i < 0 {
		i = len(entries)
	}
	if !p.standsAt(entries[i:]) {
		return false
	}
	p.asked, _ = p.spec.rule(entries[:i], entries[i])
	return p.asked
}

// standsAt notes that the key is not ours any more, unless it is the first of what etcd has said to be there.
func (p *place) standsAt(there []entry) bool {
	switch {
	case len(there) == 0 || there[0].create != p.create:
		p.fail(errKeyGone)
	case there[0].lease != p.s.ID():
		p.fail(errOverwritten)
	default:
		return true
	}
	return false
}
