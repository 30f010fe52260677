package lease

import (
	"context"
	"errors"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// reconcileLoop restores the key whenever something happens to it, until it is closed.
func (k *Key) reconcileLoop() {
	defer close(k.done)
	defer k.watch.close()
	var b restoreBackoff
	for k.ctx.Err() == nil {
		if !k.waitForDrift() {
			continue
		}
		k.suspend() // until it is known better
		for logged := false; b.wait(k.ctx); logged = true {
			err := k.reconcile(k.ctx, "restore key", true)
			if err == nil || errors.Is(err, ErrExists) { // theirs: until that changes
				break
			}
			if !logged && k.ctx.Err() == nil {
				k.m.log.WarnContext(k.ctx, "key is not restored yet", "key", errs.Short(k.name), "error", err)
			}
		}
	}
}

// waitForDrift waits until the key may no longer be what it is to be. It reports false when that was our own doing.
func (k *Key) waitForDrift() bool {
	ctx, stop := context.WithCancel(k.ctx)
	defer stop()
	k.sem <- struct{}{}
	s, revision, drifted := k.known.session.Load(), k.known.revision, k.known.drifted
	k.known.cancelWait = stop
	<-k.sem
	if drifted {
		return true
	}
	defer context.AfterFunc(s.Context(), stop)()
	rev, err := k.watch.waitAfter(ctx, revision)
	if err != nil {
		return true
	}
	k.sem <- struct{}{}
	defer func() { <-k.sem }()
	return rev > k.known.revision
}

// suspend says that the key is being restored.
func (k *Key) suspend() {
	k.mu.Lock()
	k.state = Suspended
	k.mu.Unlock()
}

// backoffResetInterval is how long nothing must have happened for the next disturbance to be repaired at once.
const backoffResetInterval = 5 * time.Second

// restoreBackoff is how fast a key is restored. The zero value is ready for use.
type restoreBackoff struct {
	lastAttempt time.Time
	backoff     backoff.BackOff
}

// wait waits for the next try: not at all after a quiet time, longer and longer after others. It reports whether the key
// is still wanted.
func (b *restoreBackoff) wait(ctx context.Context) bool {
	if b.backoff == nil || time.Since(b.lastAttempt) > backoffResetInterval {
		b.backoff = retry.Policy{}.WithDefaults().Backoff()
		b.backoff.Reset()
	} else {
		timer := time.NewTimer(b.backoff.NextBackOff())
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	b.lastAttempt = time.Now()
	return ctx.Err() == nil
}
