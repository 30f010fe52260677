package lease

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/etcdkit/etcdkit/watch"
)

// news tells when a key changes. It is all that a Key wants of a watch, and belongs to its keeper.
type news struct {
	watcher *watch.Watcher // nil where the client cannot watch
	key     string         // below the watcher's namespace

	sub  *watch.Subscription // nil before the first await, and after an end
	seen atomic.Int64        // the revision of the latest change
	bell chan struct{}       // rung for each
}

// errNoMoreNews says that a watch ended for reasons of its own.
var errNoMoreNews = errors.New("the watch has ended")

func newNews(w *watch.Watcher, key string) *news {
	return &news{watcher: w, key: key, bell: make(chan struct{}, 1)}
}

// await returns the revision of a change after the given one, as soon as there is one. Any error that is not the
// context's means that it cannot tell any more: look at the key, and begin anew from there.
func (n *news) await(ctx context.Context, after int64) (int64, error) {
	var ended <-chan struct{}
	if n.watcher != nil {
		if err := n.open(after); err != nil {
			return 0, err
		}
		ended = n.sub.Done()
	}
	for {
		if rev := n.seen.Load(); rev > after {
			return rev, nil
		}
		select {
		case <-n.bell:
		case <-ended:
			err := n.sub.Err()
			n.sub = nil
			return 0, errors.Join(errNoMoreNews, err)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// open opens the watch, which goes on from one await to the next.
func (n *news) open(after int64) error {
	if n.sub != nil {
		select {
		case <-n.sub.Done(): // what it had seen may be of a history that is no more
			n.sub = nil
		default:
			return nil
		}
	}
	n.seen.Store(after)
	sub, err := n.watcher.Subscribe(watch.Key(n.key), func(_ context.Context, b watch.Batch) error {
		n.seen.Store(b.Revision)
		select {
		case n.bell <- struct{}{}:
		default:
		}
		return nil
	}, watch.WithAfter(after))
	if err != nil {
		return err
	}
	n.sub = sub
	return nil
}

// close ends the watch.
func (n *news) close() {
	if n.sub != nil {
		_ = n.sub.Close() // always nil
	}
}

// watches returns the watcher for the keys: the one that was given, or one of the manager's own, made when it is first
// needed and closed with the manager. It is nil where the client has none.
func (c *core) watches() *watch.Watcher {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.watcher != nil:
	case c.cli.Watcher == nil, c.closed:
	default:
		c.watcher = watch.New(c.cli, watch.WithNamespace(c.root), watch.WithLogger(c.log))
		c.ownWatcher = c.watcher
	}
	return c.watcher
}
