package lease

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/etcdkit/etcdkit/internal/notify"
	"github.com/etcdkit/etcdkit/watch"
)

// keyWatch reports changes of one key. Only the goroutine of reconcileLoop uses it.
type keyWatch struct {
	watcher *watch.Watcher // nil if the client cannot watch
	key     string         // relative to the watcher's namespace

	sub    *watch.Subscription // nil before the first waitAfter and after the watch has ended
	latest atomic.Int64        // revision of the latest change
	notify chan struct{}       // has capacity 1; signals a change
}

// errWatchEnded means that the watch ended although its context did not.
var errWatchEnded = errors.New("the watch has ended")

func newKeyWatch(w *watch.Watcher, key string) *keyWatch {
	return &keyWatch{watcher: w, key: key, notify: make(chan struct{}, 1)}
}

// waitAfter waits for a change after the revision after, and returns the revision of the latest
// change. After any error other than that of ctx, changes may have been missed: the caller must
// read the key and call waitAfter with the revision of that read.
func (w *keyWatch) waitAfter(ctx context.Context, after int64) (int64, error) {
	var ended <-chan struct{}
	if w.watcher != nil {
		if err := w.open(after); err != nil {
			return 0, err
		}
		ended = w.sub.Done()
	}
	for {
		if rev := w.latest.Load(); rev > after {
			return rev, nil
		}
		select {
		case <-w.notify:
		case <-ended:
			err := w.sub.Err()
			w.sub = nil
			return 0, errors.Join(errWatchEnded, err)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// open opens the watch, unless it is open already. It stays open across calls of waitAfter.
func (w *keyWatch) open(after int64) error {
	if w.sub != nil {
		select {
		case <-w.sub.Done(): // latest may belong to a history that no longer exists
			w.sub = nil
		default:
			return nil
		}
	}
	w.latest.Store(after)
	sub, err := w.watcher.Subscribe(watch.Key(w.key), func(_ context.Context, b watch.Batch) error {
		w.latest.Store(b.Revision)
		notify.Token(w.notify)
		return nil
	}, watch.WithAfter(after))
	if err != nil {
		return err
	}
	w.sub = sub
	return nil
}

// close closes the watch.
func (w *keyWatch) close() {
	if w.sub != nil {
		_ = w.sub.Close() // its error is always nil
	}
}
