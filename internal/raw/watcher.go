package raw

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
// etcd looks at the token of a stream each time that a watch is created on it, and the token of a stream never changes.
// So once it was refused, no further watch will be created there: the watcher moves to a new generation, a Watcher below
// that has streams of its own, and every new stream logs in. Watches that exist live on where they are.
type watcher struct {
	base    clientv3.Watcher
	cli     *clientv3.Client
	engine  *retry.Engine
	closed  context.CancelFunc
	life    context.Context //nolint:containedctx // ends with Close
	running sync.WaitGroup  // added to under mu while alive is not nil

	mu      sync.Mutex
	current *generation
	alive   map[*generation]struct{} // current, and those that still have watches; nil once closed
}

// generation is a Watcher below and its streams that have watches, by their metadata.
type generation struct {
	clientv3.Watcher

	made  bool             // here
	lanes map[string]*lane // guarded by the watcher's mutex
}

func newWatcher(cli *clientv3.Client, engine *retry.Engine) *watcher {
	first := &generation{Watcher: cli.Watcher, lanes: map[string]*lane{}}
	w := &watcher{base: cli.Watcher, cli: cli, engine: engine, current: first, alive: map[*generation]struct{}{first: {}}}
	w.life, w.closed = context.WithCancel(cli.Ctx())
	return w
}

// BaseWatcher is the Watcher that was there before.
func (w *watcher) BaseWatcher() clientv3.Watcher { return w.base }

// enter counts a watch in on a stream of the current generation, and returns when it has its turn
// there; nil when ctx or the watcher has ended.
func (w *watcher) enter(ctx context.Context, stream string) *lane {
	for {
		l := w.join(stream)
		if !l.take(ctx, w) {
			w.leave(l)
			return nil
		}
		w.mu.Lock()
		good := l.on == w.current
		w.mu.Unlock()
		if good {
			return l
		}
		l.pass(w) // it would be refused like the one before
		w.leave(l)
	}
}

func (w *watcher) join(stream string) *lane {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.current.lanes[stream]
	if l == nil {
		l = newLane(w.current, stream)
		w.current.lanes[stream] = l
	}
	l.watches++
	return l
}

// leave counts a watch out, and drops a generation that has had its last one. There is nothing to
// close: streams end with their watches. Closing one while it ends could wait for ever: client/v3
// may repeat a refused request on a stream that nobody knows of, and Close does not wait for a
// watch of which the refusal has just come.
func (w *watcher) leave(l *lane) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l.watches--
	if l.watches == 0 {
		delete(l.on.lanes, l.stream)
	}
	if l.on.made && l.on != w.current && len(l.on.lanes) == 0 {
		delete(w.alive, l.on)
	}
}

// retire makes a new generation, unless somebody did so since g was the current one.
func (w *watcher) retire(g *generation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.current != g || w.life.Err() != nil {
		return
	}
	w.current = &generation{Watcher: clientv3.NewWatcher(w.cli), made: true, lanes: map[string]*lane{}}
	w.alive[w.current] = struct{}{}
}

// Watch watches. Like client/v3's it returns once the watch was created, or could not be.
func (w *watcher) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	f := newFeed(ctx, w, key, opts)
	first, ok := f.open()
	if !ok {
		return closedWith(first)
	}
	if !w.spawn(f.run) {
		return closedWith(nil)
	}
	return f.out
}

// spawn runs f in a goroutine that Close waits for.
func (w *watcher) spawn(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.alive == nil {
		return false
	}
	w.running.Go(f)
	return true
}

// closedWith is the channel of a watch that came to nothing.
func closedWith(why *clientv3.WatchResponse) clientv3.WatchChan {
	c := make(chan clientv3.WatchResponse, 1)
	if why != nil {
		c <- *why
	}
	close(c)
	return c
}

// RequestProgress asks for a progress notification on each stream that holds watches of the
// metadata in ctx.
func (w *watcher) RequestProgress(ctx context.Context) error {
	stream := streamOf(ctx)
	w.mu.Lock()
	var holders []*generation
	for g := range w.alive {
		if g.lanes[stream] != nil {
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

// Close ends all watches, and closes the Watcher that was there before as well, which is what
// closing cli used to do.
func (w *watcher) Close() error {
	w.mu.Lock()
	w.closed()
	var all error
	generations := w.alive
	w.alive = nil
	w.mu.Unlock()
	for g := range generations {
		all = errors.Join(all, g.Close())
	}
	w.running.Wait()
	return all
}

// streamOf names the stream that client/v3 puts the watches of ctx on: one for each set of
// metadata.
func streamOf(ctx context.Context) string {
	md, ok := metadata.FromOutgoingContext(ctx)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%+v", map[string][]string(md))
}
