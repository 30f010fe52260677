package lease

import (
	"context"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// sweepAfter is when, after a key was closed, it is looked at again: a write whose answer was lost may be applied some
// seconds later, to a shared lease, which lives on.
func sweepAfter() []time.Duration { return []time.Duration{5 * time.Second, 15 * time.Second} }

// sweep deletes, later, what a closed key may have left behind.
type sweep struct {
	stop   context.CancelFunc
	done   chan struct{}
	leases []clientv3.LeaseID // that the key was put on
	doubt  time.Time          // of the last write that may have been applied, or may yet be
}

// inherit ends a sweep, if there is one, since somebody has opened the key again, and it is theirs now. So is the doubt: they
// may close it before that is over, or not get as far as to write.
func (h *holding) inherit(s *sweep) {
	if s != nil {
		s.stop()
		<-s.done
		h.leases, h.doubt = s.leases, s.doubt
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
	s := &sweep{stop: stop, done: make(chan struct{}), leases: k.held.leases, doubt: k.held.doubt}
	m.sweeps[k.abs] = s
	m.jobs.Go(func() {
		defer stop()
		defer close(s.done)
		s.run(ctx, k)
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.sweeps[k.abs] == s {
			delete(m.sweeps, k.abs)
		}
	})
}

// run deletes the key at each of the times, and when etcd does not answer to that, on and on.
func (s *sweep) run(ctx context.Context, k *Key) {
	begin, times := time.Now(), k.m.sweepAfter
	var at time.Duration
	told := false
	for n, failed := 0, false; n < len(times) || failed; n++ {
		if n < len(times) {
			at = times[n]
		} else {
			at += times[len(times)-1]
		}
		timer := time.NewTimer(time.Until(begin.Add(at)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		failed = false
		for _, id := range s.leases {
			if err := k.m.deleteOn(ctx, k, id); err != nil && ctx.Err() == nil {
				if failed = !errors.Is(err, errs.Permission); !told {
					k.m.log.WarnContext(ctx, "a closed key is not deleted yet", "key", errs.Short(k.name), "error", err)
					told = true
				}
			}
		}
	}
}
