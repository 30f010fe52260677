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
	"github.com/etcdkit/etcdkit/internal/keywatch"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/internal/watchstream"
)

// Watcher watches the keys of a namespace. It is safe for concurrent use. Watchers returned by
// [Watcher.Namespace] share its streams.
type Watcher struct {
	core  *core
	ns    string
	err   error // returned by every watch if the namespace is invalid
	child bool  // of another watcher, which owns the core
	once  *sync.Once
}

// New returns a Watcher over cli. It sends nothing. If cli.Watcher or cli.KV is not client/v3's
// own, it is used as it is and not closed, and progress is requested for each server-side watch of
// that Watcher separately. With client/v3's own login, each new stream logs in.
//
// If cli or options are invalid, the error matches [ErrInvalid] and lists everything that is wrong
// with them.
func New(cli *clientv3.Client, o ...Option) (*Watcher, error) {
	cfg, ns, err := newConfig(o)
	switch {
	case cli == nil:
		err = errors.Join(err, fmt.Errorf("%w: no client", errs.Invalid))
	case cli.Ctx() == nil, cli.ActiveConnection() == nil && cli.Watcher == nil:
		err = errors.Join(err, fmt.Errorf("%w: the client has no connection and no Watcher", errs.Invalid))
	}
	if err != nil {
		return nil, opError("new", Selector{}, err)
	}
	w := &Watcher{core: newCore(cli, cfg), ns: ns, once: &sync.Once{}}
	w.core.tracked = scope.Track(cfg.scope, metrics, "", w.Stats)
	return w, nil
}

// Namespace returns a Watcher of the keys below dir. It shares the streams and the lifetime of w,
// and closing it has no effect. If dir is invalid, every watch returns an error.
func (w *Watcher) Namespace(dir string) *Watcher {
	below, err := keyspace.Dir(dir)
	return &Watcher{core: w.core, ns: w.ns + below, err: errors.Join(w.err, err), child: true, once: &sync.Once{}}
}

// Watch returns a sequence of batches. It ends with ctx or when the loop ends. An error comes last,
// with a zero Batch: that of ctx, or one of the errors of this package. The time that the loop body
// takes counts as lag; see Slow consumers in the package documentation. Each loop over the sequence
// is a watch of its own.
func (w *Watcher) Watch(ctx context.Context, s Selector, o ...Option) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		sub, err := w.prepare(s, o, func(b Batch) error {
			if !yield(b, nil) {
				return errLoopEnded
			}
			return nil
		})
		if err == nil {
			err = sub.run(ctx)
		}
		if !errors.Is(err, errLoopEnded) {
			yield(Batch{}, opError("watch", s, err))
		}
	}
}

// errLoopEnded means that the loop of the consumer has ended.
var errLoopEnded = errors.New("the loop of the consumer has ended")

// prepare validates the arguments of a watch and registers it. It sends nothing. run must follow.
func (w *Watcher) prepare(s Selector, o []Option, out func(Batch) error) (*subscriber, error) {
	r, err := newRequest(w.ns, s, o)
	if err := errors.Join(w.err, err); err != nil {
		return nil, err
	}
	sub := newSubscriber(w.core, r, out)
	if err := w.core.register(sub); err != nil {
		return nil, err
	}
	return sub, nil
}

// Close ends all watches and subscriptions with [ErrClosed] and waits for handlers and goroutines.
// It does not close the client. It is idempotent. A handler must not call Close, which would
// deadlock. On a Watcher returned by [Watcher.Namespace], Close does nothing.
func (w *Watcher) Close() error {
	if !w.child {
		w.once.Do(w.core.close)
	}
	return nil
}

// Package lock watches its keys over the client of a Watcher.
var _ = keywatch.Provide(func(watcher any) (cli *clientv3.Client, own bool) {
	w, ok := watcher.(*Watcher)
	if !ok || w.core == nil {
		return nil, false
	}
	cli = w.core.cli
	return cli, cli.ActiveConnection() != nil && (cli.Watcher == nil || watchstream.IsClientV3Watcher(cli.Watcher))
})
