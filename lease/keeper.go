package lease

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// keep restores the key whenever something happens to it, until it is closed.
func (k *Key) keep() {
	defer close(k.done)
	var p pace
	for k.ctx.Err() == nil {
		if !k.disturbed() {
			continue
		}
		k.note(errNoMoreNews) // until it is known better
		for bad := false; p.wait(k.ctx); bad = true {
			err := k.settle(k.ctx, "restore key", true)
			if err == nil || errors.Is(err, ErrExists) { // theirs: until that changes
				break
			}
			if !bad && k.ctx.Err() == nil {
				k.m.log.WarnContext(k.ctx, "key is not restored yet", "key", errs.Quote(k.name), "error", err)
			}
		}
	}
}

// disturbed waits until the key may no longer be what it is to be. It reports false when that was our own doing.
func (k *Key) disturbed() bool {
	ctx, stop := context.WithCancel(k.ctx)
	defer stop()
	k.turn <- struct{}{}
	s, seen := k.held.current.Load(), k.held.seen
	<-k.turn
	if s != nil {
		defer context.AfterFunc(s.Context(), stop)()
	}
	rev, err := k.notify.await(ctx, k.abs, seen)
	if err != nil {
		return true
	}
	k.turn <- struct{}{}
	defer func() { <-k.turn }()
	return rev > k.held.seen
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

// sweepAfter is when, after a key was closed, it is looked at again: a write whose answer was lost may be applied some
// seconds later, to a shared lease, which lives on.
func sweepAfter() []time.Duration { return []time.Duration{5 * time.Second, 15 * time.Second} }

// sweep deletes, later, what a closed key may have left behind.
type sweep struct {
	stop context.CancelFunc
	done chan struct{}
}

// end ends a sweep, if there is one, since somebody has opened the key again, and it is theirs now.
func (s *sweep) end() {
	if s != nil {
		s.stop()
		<-s.done
	}
}

// retire gives the name of a key back, and has it swept where there is doubt.
func (k *Key) retire() {
	m := k.m
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.keys, k.abs)
	if m.closed || k.held.doubt.IsZero() || time.Since(k.held.doubt) > m.sweepAfter[len(m.sweepAfter)-1] {
		return // the shared lease is revoked too, or all has been said
	}
	ctx, stop := context.WithCancel(m.life)
	s := &sweep{stop: stop, done: make(chan struct{})}
	m.sweeps[k.abs] = s
	id := k.held.leases[len(k.held.leases)-1]
	m.jobs.Go(func() {
		defer stop()
		defer close(s.done)
		s.run(ctx, k, id)
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.sweeps[k.abs] == s {
			delete(m.sweeps, k.abs)
		}
	})
}

func (s *sweep) run(ctx context.Context, k *Key, id clientv3.LeaseID) {
	begin := time.Now()
	for _, after := range k.m.sweepAfter {
		timer := time.NewTimer(time.Until(begin.Add(after)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if err := k.m.deleteOn(ctx, k, id); err != nil && ctx.Err() == nil {
			k.m.log.WarnContext(ctx, "a key is left to its lease", "key", errs.Quote(k.name), "error", err)
		}
	}
}
