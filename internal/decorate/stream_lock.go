package decorate

import (
	"context"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// streamLock serializes the creation and the end of watches on one stream of a generation.
//
// client/v3 closes a stream when the last watch on it has ended, and does not count a watch that
// was refused at the same time. Its loop then blocks forever, and so does every later watch on that
// stream. client/v3 creates the watches of a stream one by one anyway, so the lock costs nothing.
type streamLock struct {
	generation *generation
	stream     string
	users      int           // guarded by the watcher's mutex
	token      chan struct{} // holds a token while the lock is held

	mu    sync.Mutex
	ended []*baseWatch // to be ended by the holder of the lock
}

// baseWatch is one watch of the base Watcher.
type baseWatch struct {
	lock      *streamLock
	responses clientv3.WatchChan
	cancel    context.CancelFunc

	// first is the response to the creation, or nil if client/v3 sent none.
	first *clientv3.WatchResponse
}

func newStreamLock(on *generation, stream string) *streamLock {
	return &streamLock{generation: on, stream: stream, token: make(chan struct{}, 1)}
}

// openWatch opens a watch and returns it after its first response, or returns nil if ctx or w ends
// first. The watch is then ended as soon as it is created. The caller holds the lock, which
// openWatch releases.
func (l *streamLock) openWatch(ctx context.Context, w *watcher, key string, opts []clientv3.OpOption) *baseWatch {
	created := make(chan *baseWatch)
	if !w.spawn(func() {
		opened := l.startWatch(context.WithoutCancel(ctx), key, opts) // it is ended under the lock
		if opened.first != nil && tokenRefused(opened.first) {
			// before the lock is released: client/v3 may still be repeating the refused request
			w.retire(l.generation)
		}
		l.release(w)
		select {
		case created <- opened:
		case <-ctx.Done():
			l.endWatch(w, opened)
		case <-w.ctx.Done():
			l.endWatch(w, opened)
		}
	}) {
		return nil
	}
	select {
	case opened := <-created:
		return opened
	case <-ctx.Done():
	case <-w.ctx.Done():
	}
	return nil
}

func (l *streamLock) startWatch(ctx context.Context, key string, opts []clientv3.OpOption) *baseWatch {
	ctx, cancel := context.WithCancel(ctx)
	opened := &baseWatch{lock: l, cancel: cancel, responses: l.generation.Watch(ctx, key, opts...)}
	if r, ok := <-opened.responses; ok {
		opened.first = &r
	}
	return opened
}

// acquire waits for the lock. It returns false if ctx or w ends first.
func (l *streamLock) acquire(ctx context.Context, w *watcher) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case l.token <- struct{}{}:
		return true
	case <-ctx.Done():
	case <-w.ctx.Done():
	}
	return false
}

// endWatch ends a watch, now or when the holder releases the lock.
func (l *streamLock) endWatch(w *watcher, ended *baseWatch) {
	l.mu.Lock()
	l.ended = append(l.ended, ended)
	l.mu.Unlock()
	select {
	case l.token <- struct{}{}:
		l.release(w)
	default:
	}
}

// release ends the watches that are to be ended, and releases the lock.
func (l *streamLock) release(w *watcher) {
	for {
		l.mu.Lock()
		ended := l.ended
		l.ended = nil
		if len(ended) == 0 {
			<-l.token
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for _, x := range ended {
			x.cancel()
			for range x.responses { // until client/v3 has ended the watch
			}
			w.removeUser(l)
		}
	}
}
