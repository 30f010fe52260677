package decorate

import (
	"context"
	"errors"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/etcdkit/etcdkit/internal/retry"
)

// watcher is a Watcher whose watches outlive the token of their stream.
//
// etcd checks the token of a stream whenever a watch is created on it, and the token of a stream
// never changes. Once it was refused, no watch can be created there: the watcher moves to a new
// generation, a base Watcher with streams of its own, each of which logs in. Existing watches stay
// where they are.
type watcher struct {
	base   clientv3.Watcher
	cli    *clientv3.Client
	engine *retry.Engine
	cancel context.CancelFunc
	ctx    context.Context //nolint:containedctx // ends with Close
	wg     sync.WaitGroup  // added to under mu while generations is not nil

	mu      sync.Mutex
	current *generation
	// Current, and those that still have watches; nil once closed.
	generations map[*generation]struct{}
}

// generation is a base Watcher and the locks of its streams that have watches, by stream key.
type generation struct {
	clientv3.Watcher

	owned bool                   // created by this package
	locks map[string]*streamLock // guarded by the watcher's mutex
}

func newWatcher(cli *clientv3.Client, engine *retry.Engine) *watcher {
	first := &generation{Watcher: cli.Watcher, locks: map[string]*streamLock{}}
	w := &watcher{base: cli.Watcher, cli: cli, engine: engine, current: first, generations: map[*generation]struct{}{first: {}}}
	w.ctx, w.cancel = context.WithCancel(cli.Ctx())
	return w
}

// BaseWatcher returns the Watcher that w decorates.
func (w *watcher) BaseWatcher() clientv3.Watcher { return w.base }

// lockStream adds a user to a stream of the current generation and acquires its lock. It returns
// nil if ctx or the watcher ends first.
func (w *watcher) lockStream(ctx context.Context, stream string) *streamLock {
	for {
		l := w.addUser(stream)
		if !l.acquire(ctx, w) {
			w.removeUser(l)
			return nil
		}
		w.mu.Lock()
		isCurrent := l.generation == w.current
		w.mu.Unlock()
		if isCurrent {
			return l
		}
		l.release(w) // its token was refused
		w.removeUser(l)
	}
}

func (w *watcher) addUser(stream string) *streamLock {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.current.locks[stream]
	if l == nil {
		l = newStreamLock(w.current, stream)
		w.current.locks[stream] = l
	}
	l.users++
	return l
}

// removeUser removes a user, and drops a retired generation without users. It closes nothing,
// because streams end with their watches. Close could block forever: client/v3 may repeat a refused
// request on a stream that it has lost track of, and does not wait for a watch that was just
// refused.
func (w *watcher) removeUser(l *streamLock) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l.users--
	if l.users == 0 {
		delete(l.generation.locks, l.stream)
	}
	if l.generation.owned && l.generation != w.current && len(l.generation.locks) == 0 {
		delete(w.generations, l.generation)
	}
}

// retire starts a new generation, unless g is no longer the current one.
func (w *watcher) retire(g *generation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.current != g || w.ctx.Err() != nil {
		return
	}
	w.current = &generation{Watcher: clientv3.NewWatcher(w.cli), owned: true, locks: map[string]*streamLock{}}
	w.generations[w.current] = struct{}{}
}

// Watch opens a watch. Like client/v3's, it returns once the watch was created or refused.
func (w *watcher) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	f := newRetryingWatch(ctx, w, key, opts)
	first, ok := f.open()
	if !ok {
		return closedChannel(first)
	}
	if !w.spawn(f.run) {
		return closedChannel(nil)
	}
	return f.out
}

// spawn runs f in a goroutine that Close waits for.
func (w *watcher) spawn(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.generations == nil {
		return false
	}
	w.wg.Go(f)
	return true
}

// closedChannel returns the channel of a watch that was not created, with its last response.
func closedChannel(last *clientv3.WatchResponse) clientv3.WatchChan {
	c := make(chan clientv3.WatchResponse, 1)
	if last != nil {
		c <- *last
	}
	close(c)
	return c
}

// RequestProgress requests a progress notification on each stream that holds watches of the
// metadata in ctx.
func (w *watcher) RequestProgress(ctx context.Context) error {
	stream := streamKey(ctx)
	w.mu.Lock()
	var holders []*generation
	for g := range w.generations {
		if g.locks[stream] != nil {
			holders = append(holders, g)
		}
	}
	if holders == nil {
		holders = append(holders, w.current)
	}
	w.mu.Unlock()
	var all error
	for _, g := range holders {
		all = errors.Join(all, g.RequestProgress(ctx))
	}
	return all
}

// Close ends all watches and closes the base Watcher, as closing the client did.
func (w *watcher) Close() error {
	w.mu.Lock()
	w.cancel()
	var all error
	generations := w.generations
	w.generations = nil
	w.mu.Unlock()
	for g := range generations {
		all = errors.Join(all, g.Close())
	}
	w.wg.Wait()
	return all
}

// streamKey identifies the stream on which client/v3 opens the watches of ctx: one for each set of
// metadata.
func streamKey(ctx context.Context) string {
	md, ok := metadata.FromOutgoingContext(ctx)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%+v", map[string][]string(md))
}
