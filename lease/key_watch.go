package lease

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/etcdkit/etcdkit/watch"
)

// keyWatch tells when a key changes. It is all that a Key wants of a watch, and belongs to its keeper.
type keyWatch struct {
	watcher *watch.Watcher // nil where the client cannot watch
	key     string         // below the watcher's namespace

	sub    *watch.Subscription // nil before the first await, and after an end
	latest atomic.Int64        // the revision of the latest change
	notify chan struct{}       // rung for each
}

// errWatchEnded says that a watch ended for reasons of its own.
var errWatchEnded = errors.New("the watch has ended")

func newKeyWatch(w *watch.Watcher, key string) *keyWatch {
	return &keyWatch{watcher: w, key: key, notify: make(chan struct{}, 1)}
}

// waitAfter returns the revision of a change after the given one, as soon as there is one. Any error that is not the
// context's means that it cannot tell any more: look at the key, and begin anew from there.
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

// open opens the watch, which goes on from one await to the next.
func (w *keyWatch) open(after int64) error {
	if w.sub != nil {
		select {
		case <-w.sub.Done(): // what it had seen may be of a history that is no more
			w.sub = nil
		default:
			return nil
		}
	}
	w.latest.Store(after)
	sub, err := w.watcher.Subscribe(watch.Key(w.key), func(_ context.Context, b watch.Batch) error {
		w.latest.Store(b.Revision)
		select {
		case w.notify <- struct{}{}:
		default:
		}
		return nil
	}, watch.WithAfter(after))
	if err != nil {
		return err
	}
	w.sub = sub
	return nil
}

// close ends the watch.
func (w *keyWatch) close() {
	if w.sub != nil {
		_ = w.sub.Close() // always nil
	}
}
