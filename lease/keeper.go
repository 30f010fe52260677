package lease

import (
	"context"
	"errors"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// keep restores the key whenever something happens to it, until it is closed.
func (k *Key) keep() {
	defer close(k.done)
	defer k.news.close()
	var p pace
	for k.ctx.Err() == nil {
		if !k.disturbed() {
			continue
		}
		k.suspend() // until it is known better
		for bad := false; p.wait(k.ctx); bad = true {
			err := k.settle(k.ctx, "restore key", true)
			if err == nil || errors.Is(err, ErrExists) { // theirs: until that changes
				break
			}
			if !bad && k.ctx.Err() == nil {
				k.m.log.WarnContext(k.ctx, "key is not restored yet", "key", errs.Short(k.name), "error", err)
			}
		}
	}
}

// disturbed waits until the key may no longer be what it is to be. It reports false when that was our own doing.
func (k *Key) disturbed() bool {
	ctx, stop := context.WithCancel(k.ctx)
	defer stop()
	k.turn <- struct{}{}
	s, seen, astray := k.held.current.Load(), k.held.seen, k.held.astray
	k.held.wake = stop
	<-k.turn
	if astray {
		return true
	}
	defer context.AfterFunc(s.Context(), stop)()
	rev, err := k.news.await(ctx, seen)
	if err != nil {
		return true
	}
	k.turn <- struct{}{}
	defer func() { <-k.turn }()
	return rev > k.held.seen
}

// suspend says that the key is being restored.
func (k *Key) suspend() {
	k.mu.Lock()
	k.state = Suspended
	k.mu.Unlock()
}

// calm is how long nothing must have happened for the next disturbance to be repaired at once.
const calm = 5 * time.Second

// pace is how fast a key is restored. The zero value is ready for use.
type pace struct {
	last  time.Time
	waits backoff.BackOff
}

// wait waits for the next try: not at all after a quiet time, longer and longer after others. It reports whether the key
// is still wanted.
func (p *pace) wait(ctx context.Context) bool {
	if p.waits == nil || time.Since(p.last) > calm {
		p.waits = retry.Policy{}.WithDefaults().Backoff()
		p.waits.Reset()
	} else {
		timer := time.NewTimer(p.waits.NextBackOff())
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	p.last = time.Now()
	return ctx.Err() == nil
}
