package keywatch

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// serveUserWatcher serves a watch over a Watcher that is not client/v3's own, until ctx ends or the
// client is closed.
func (w *Watcher) serveUserWatcher(ctx context.Context, k *keyWatch) {
	backoff := retry.Policy{BaseDelay: minBackoff, MaxDelay: maxBackoff}.Backoff()
	backoff.Reset()
	for {
		var openedAt time.Time
		watchCtx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		for resp := range w.cli.Watch(watchCtx, k.target.Key, k.target.options()...) {
			if resp.Err() != nil {
				break
			}
			w.mu.Lock()
			if resp.Created {
				openedAt = time.Now()
				k.notifyOpened(resp.Header.Revision)
			}
			for _, ev := range resp.Events {
				k.notifyChanged(ev)
			}
			w.mu.Unlock()
		}
		cancel()
		if ctx.Err() != nil {
			return
		}
		w.reopened.Add(1)
		w.mu.Lock()
		k.notifyLost(errEnded)
		w.mu.Unlock()
		if !openedAt.IsZero() && time.Since(openedAt) > minStableTime {
			backoff.Reset()
		}
		if !w.sleep(ctx, backoff.NextBackOff()) {
			if ctx.Err() == nil { // the client is closed
				w.mu.Lock()
				k.notifyLost(errs.Closed)
				w.mu.Unlock()
			}
			return
		}
	}
}

// errEnded is passed to Lost when such a watch ends, whatever the cause.
var errEnded = fmt.Errorf("%w: the watch has ended", errs.Unavailable)

func (t Target) options() []clientv3.OpOption {
	opts := []clientv3.OpOption{clientv3.WithCreatedNotify()}
	if end := t.end(); end != "" {
		opts = append(opts, clientv3.WithRange(end))
	}
	switch t.Filter {
	case Deletions:
		opts = append(opts, clientv3.WithFilterPut())
	case Puts:
		opts = append(opts, clientv3.WithFilterDelete())
	case Changes:
	}
	return opts
}
