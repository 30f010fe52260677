package keywatch

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

// follow serves a watch over a Watcher that is not client/v3's own, until ctx ends or the client is
// closed.
func (w *Watcher) follow(ctx context.Context, k *keyWatch) {
	pauses := retry.Policy{BaseDelay: minBackoff, MaxDelay: maxBackoff}.Backoff()
	pauses.Reset()
	for {
		var openedAt time.Time
		own, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
		for resp := range w.cli.Watch(own, k.target.Key, k.target.options()...) {
			if resp.Err() != nil {
				break
			}
			w.mu.Lock()
			if resp.Created {
				openedAt = time.Now()
				k.opened(resp.Header.Revision)
			}
			for _, ev := range resp.Events {
				k.changed(ev)
			}
			w.mu.Unlock()
		}
		stop()
		if ctx.Err() != nil {
			return
		}
		w.reopened.Add(1)
		w.mu.Lock()
		k.lose(errEnded)
		w.mu.Unlock()
		if !openedAt.IsZero() && time.Since(openedAt) > stableFor {
			pauses.Reset()
		}
		if !w.sleep(ctx, pauses.NextBackOff()) {
			if ctx.Err() == nil { // the client is closed
				w.mu.Lock()
				k.lose(errs.Closed)
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
