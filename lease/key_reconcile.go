package lease

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// reconcileLoop restores the key whenever it has drifted, until the key is closed.
func (k *Key) reconcileLoop() {
	defer close(k.done)
	defer k.watch.close()
	var b restoreBackoff
	for k.ctx.Err() == nil {
		if !k.waitForDrift() {
			continue
		}
		k.suspend() // until the key is restored
		for logged := false; b.wait(k.ctx); logged = true {
			err := k.reconcile(k.ctx, "restore key", true)
			// Another owner has it: wait for the next change.
			if err == nil || errors.Is(err, ErrExists) {
				break
			}
			if !logged && k.ctx.Err() == nil {
				k.m.log.WarnContext(k.ctx, "key is not restored yet", "key", errs.Short(k.name), "error", err)
			}
		}
	}
}

// waitForDrift waits until the key may differ from its desired state. It returns false if the wait
// ended for a write of this Key, which is no drift.
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

// suspend sets the state to Suspended.
func (k *Key) suspend() {
	k.mu.Lock()
	k.state = Suspended
	k.mu.Unlock()
}

// backoffResetInterval is when the backoff resets: a restore that starts longer than this after the
// last attempt is not delayed.
const backoffResetInterval = 5 * time.Second

// restoreBackoff spaces out the attempts to restore a key. The zero value is ready for use.
type restoreBackoff struct {
	lastAttempt time.Time
	backoff     backoff.BackOff
}

// wait waits until the next attempt may start. It does not wait if the last attempt was more than
// backoffResetInterval ago; otherwise the delays grow. It returns false if ctx has ended.
func (b *restoreBackoff) wait(ctx context.Context) bool {
	if b.backoff == nil || time.Since(b.lastAttempt) > backoffResetInterval {
		b.backoff = retry.Policy{}.WithDefaults().Backoff()
		b.backoff.Reset()
	} else {
		_ = retry.Sleep(ctx, b.backoff.NextBackOff()) // the result depends on ctx alone
	}
	b.lastAttempt = time.Now()
	return ctx.Err() == nil
}
