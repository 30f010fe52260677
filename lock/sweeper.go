package lock

import (
	"context"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// sweepAgain is when a key is removed again that a request may yet create: etcd gives up on a request after 7 s, but one
// that waits in a queue somewhere can be later.
func sweepAgain() []time.Duration { return []time.Duration{5 * time.Second, 15 * time.Second} }

// sweepMost bounds how long a key is tried to be removed: by then its lease has ended.
const sweepMost = 5 * time.Minute

// remove deletes the key where it is still the one that was created: one RPC. It fails with ErrLost where it was gone
// before. Afterwards the place is retired, and swept where the outcome is not known.
func (p *place) remove(ctx context.Context) error {
	resp, err := p.q.l.definite(ctx, txn{
		cmps: []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(p.key), "=", p.create)},
		then: []clientv3.Op{clientv3.OpDelete(p.key)},
	})
	if err != nil {
		p.discard()
		return err
	}
	p.retire()
	if p.doubt {
		p.q.l.sweep(p.key, true)
	}
	if !resp.Succeeded && !resp.doubt {
		return lost(errKeyGone)
	}
	return nil
}

// discard gives a place up without waiting: its key is removed in the background.
func (p *place) discard() {
	if p.create == 0 && !p.doubt {
		p.retire() // nothing was ever created
		return
	}
	if p.q.l.sweep(p.key, p.doubt) {
		p.retire()
	} // else Close removes it
}

// retire forgets the place: its key is gone, or is being swept.
func (p *place) retire() {
	p.q.mu.Lock()
	delete(p.q.places, p.key)
	p.q.mu.Unlock()
	l := p.q.l
	l.mu.Lock()
	if l.places[p.key] == p && !l.closed {
		delete(l.places, p.key)
	}
	l.mu.Unlock()
	p.s.done()
}

// sweep removes a key of ours in the background, until that is certain, and again later where a request may yet create
// it. It reports false after Close, which removes what is registered itself.
func (l *Locker) sweep(key string, again bool) bool {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	l.dirty[key] = struct{}{}
	l.jobs.Go(func() { l.sweeping(key, again) })
	l.mu.Unlock()
	return true
}

func (l *Locker) sweeping(key string, again bool) {
	ctx, stop := context.WithTimeout(l.life, sweepMost)
	defer stop()
	began := time.Now()
	gone := l.erase(ctx, key)
	if again {
		for _, after := range sweepAgain() {
			if gone = gone && sleep(ctx, time.Until(began.Add(after))) && l.erase(ctx, key); !gone {
				break
			}
		}
	}
	if l.life.Err() != nil {
		return // Close goes on with what is dirty
	}
	if !gone {
		l.logger.WarnContext(ctx, "key could not be deleted", "key", errs.Short(key), "error", ctx.Err())
	}
	l.mu.Lock()
	delete(l.dirty, key)
	l.mu.Unlock()
}

// erase deletes a key that nobody else ever writes, until etcd has said so.
func (l *Locker) erase(ctx context.Context, key string) bool {
	pauses := retry.Policy{BaseDelay: pauseBetween, MaxDelay: pauseMost}.Backoff()
	pauses.Reset()
	for ctx.Err() == nil {
		try, stop := context.WithTimeout(ctx, farewell)
		rev, err := l.store.Delete(try, key)
		stop()
		if err == nil {
			if rev > 0 {
				l.counts.swept.Add(1)
			}
			return true
		}
		if errors.Is(err, errs.Permission) || errors.Is(err, errs.Closed) {
			return false
		}
		if !sleep(ctx, pauses.NextBackOff()) {
			return false
		}
	}
	return false
}
