package watch

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

// Watcher watches below a namespace. It is safe for concurrent use. Watchers made from one another with
// [Watcher.Namespace] share streams.
type Watcher struct {
	core  *core
	ns    string
	bad   error // what is wrong with the watcher: every watch returns it
	child bool  // of another watcher, whose streams it uses
	once  *sync.Once
}

// New returns a watcher over cli. It sends nothing. cli.Watcher and cli.KV are used as they are where they are not
// client/v3's own.
//
// What is wrong with the options is returned by every watch, since New has no error result.
func New(cli *clientv3.Client, o ...WatcherOption) *Watcher {
	cfg, ns, bad := newConfig(o)
	w := &Watcher{ns: ns, bad: bad, once: &sync.Once{}}
	if cli == nil {
		w.bad = errors.Join(bad, fmt.Errorf("%w: no client", errs.Invalid))
		return w
	}
	if cli.Ctx() == nil || cli.ActiveConnection() == nil && cli.Watcher == nil {
		w.bad = errors.Join(bad, fmt.Errorf("%w: a client without a connection and without a Watcher", errs.Invalid))
		return w
	}
	w.core = newCore(cli, cfg)
	return w
}

// Namespace returns the watcher of what lies below dir. It shares the streams and the life of w: closing it closes
// nothing. What is wrong with dir is returned by every watch.
func (w *Watcher) Namespace(dir string) *Watcher {
	below, err := keyspace.Dir(dir)
	return &Watcher{core: w.core, ns: w.ns + below, bad: errors.Join(w.bad, err), child: true, once: &sync.Once{}}
}

// Watch yields batches as long as ctx lives and the loop goes on. An error comes last, with a zero Batch: that of ctx,
// or one of the package's conditions. The time that the loop body takes counts as lag; see "Slow consumers" above. Each
// loop over the sequence is a watch of its own.
func (w *Watcher) Watch(ctx context.Context, s Selector, o ...Option) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		one, err := w.prepare(ctx, s, o, func(b Batch) error {
			if !yield(b, nil) {
				return errLeft
			}
			return nil
		})
		if err == nil {
			err = one.run(ctx)
		}
		if !errors.Is(err, errLeft) {
			yield(Batch{}, fail("watch", s, err))
		}
	}
}

// errLeft says that the consumer has had enough.
var errLeft = errors.New("the consumer has left")

// prepare checks everything that can be checked before anything is sent, and registers a watch. run must follow.
func (w *Watcher) prepare(ctx context.Context, s Selector, o []Option, out func(Batch) error) (*sub, error) {
	r, err := newRequest(w.ns, s, o)
	if err := errors.Join(w.bad, err); err != nil {
		return nil, err
	}
	if ctx == nil {
		return nil, fmt.Errorf("%w: nil context", errs.Invalid)
	}
	one := newSub(w.core, r, out)
	if err := w.core.begin(one); err != nil {
		return nil, err
	}
	return one, nil
}

// Close ends all watches and subscriptions with [ErrClosed], waits for handlers and goroutines, and leaves the client
// as it is. Only the first call does anything. A handler must not call it: it would wait for itself.
func (w *Watcher) Close() error {
	if w.core != nil && !w.child {
		w.once.Do(w.core.close)
	}
	return nil
}
