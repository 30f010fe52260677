package raw

import (
	"context"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// lane is one stream of a generation. Its watches are created and ended one after another.
//
// client/v3 tears a stream down when the last watch on it has ended, and does not count one that was refused a moment
// ago: if both come together its loop waits for ever, and so does everyone who wants a watch on that stream afterwards.
// Since client/v3 creates the watches of a stream one by one anyway, taking turns costs nothing.
type lane struct {
	on      *generation
	stream  string
	watches int           // guarded by the watcher's mutex
	turn    chan struct{} // holds one token: whoever has put it there may create and end

	mu   sync.Mutex
	over []*watch // ended while somebody had the turn, who then sees to it
}

// watch is one watch below.
type watch struct {
	lane *lane
	in   clientv3.WatchChan
	stop context.CancelFunc

	// first says that the watch was created, or why not. It is nil where client/v3 says nothing.
	first *clientv3.WatchResponse
}

func newLane(on *generation, stream string) *lane {
	return &lane{on: on, stream: stream, turn: make(chan struct{}, 1)}
}

// create opens a watch and returns it once its first response is there; nil when ctx or w ended
// before. A creation that nobody waits for any more is seen through and undone. The lane was
// entered by the caller.
func (l *lane) create(ctx context.Context, w *watcher, key string, opts []clientv3.OpOption) *watch {
	created := make(chan *watch)
	if !w.spawn(func() {
		x := l.watch(context.WithoutCancel(ctx), key, opts) // its end takes its turn as well
		if x.first != nil && tokenRefused(x.first) {
			// before the next one has its turn: client/v3 may still be repeating the request that
			// was refused
			w.retire(l.on)
		}
		l.pass(w)
		select {
		case created <- x:
		case <-ctx.Done():
			l.end(w, x)
		case <-w.life.Done():
			l.end(w, x)
		}
	}) {
		return nil
	}
	select {
	case x := <-created:
		return x
	case <-ctx.Done():
	case <-w.life.Done():
	}
	return nil
}

func (l *lane) watch(ctx context.Context, key string, opts []clientv3.OpOption) *watch {
	ctx, stop := context.WithCancel(ctx)
	x := &watch{lane: l, stop: stop, in: l.on.Watch(ctx, key, opts...)}
	if r, ok := <-x.in; ok {
		x.first = &r
	}
	return x
}

// take waits for the turn.
func (l *lane) take(ctx context.Context, w *watcher) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case l.turn <- struct{}{}:
		return true
	case <-ctx.Done():
	case <-w.life.Done():
	}
	return false
}

// end ends a watch, now or when whoever has the turn passes it on.
func (l *lane) end(w *watcher, x *watch) {
	l.mu.Lock()
	l.over = append(l.over, x)
	l.mu.Unlock()
	select {
	case l.turn <- struct{}{}:
		l.pass(w)
	default:
	}
}

// pass ends what there is to end, and gives the turn back.
func (l *lane) pass(w *watcher) {
	for {
		l.mu.Lock()
		over := l.over
		l.over = nil
		if len(over) == 0 {
			<-l.turn
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for _, x := range over {
			x.stop()
			for range x.in { // until client/v3 has let go of the watch
			}
			w.leave(l)
		}
	}
}
