package config

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
	"github.com/etcdkit/etcdkit/kv"
)

// Source is the configuration below a dir, in memory and followed. It is safe for concurrent use.
type Source struct {
	dir               string
	store             *kv.Store // below the dir
	options           options
	openedAt          time.Time
	saved             savedState // what the state file had at Open
	fallbackWrittenAt time.Time  // when the fallback file was written

	ctx       context.Context //nolint:containedctx // the life of all goroutines
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	closeOnce sync.Once
	closeErr  error

	replica    atomic.Pointer[cache.Replica[[]byte]]
	errorQueue *listenerQueue[report] // nil without a handler
	stateDirty chan struct{}          // holds one: the state file is out of date

	applyMu sync.Mutex // held while a revision is taken over, before mu: until then, bound values are behind the layers

	mu              sync.RWMutex
	layers          layers // changed by take alone
	origin          Origin
	appliedRevision int64         // everything that depends on this revision was told of it
	applied         chan struct{} // closed when shown has changed
	connectErr      error         // why etcd has not been reached yet
	closed          bool
	boundValues     []boundValue
	listeners       map[*listener]struct{}
	callbacks       map[callbackRunner]struct{}
	reportedBad     map[string]int64  // by key: the revision of the last bad value that GetOr has reported
	variables       map[string]string // by variable of the environment: the bound key that it overrides

	hasReportedBad atomic.Bool // reported is not empty

	updates, decodes, badValues, panics, folded, ignored, stateWrites, stateErrors atomic.Uint64
}

// boundValue is a Value of any type.
type boundValue interface {
	// covers reports whether a key belongs to it.
	covers(key string) bool
	// update takes over what the layers have at rev; tell tells those who follow it.
	update(l *layers, rev int64) (tell func())
	// restoreLastGood makes an etcd layer that it can use of one that it cannot.
	restoreLastGood(etcd layer)
	// Err is why it cannot.
	Err() error
}

// callbackRunner is a tail of any type.
type callbackRunner interface {
	close()
	ended() <-chan struct{}
}

// closeTimeout is how long Close waits for functions of the user.
const closeTimeout = 5 * time.Second

// Open reads the configuration below dir and follows it. It costs a streamed list, and a server-side watch that it shares
// with whoever watches the same dir through the client's watcher.
//
// ctx bounds Open alone. Without a file it waits for etcd as long as ctx allows, and without a deadline until nothing has
// happened for 10 s. With a [WithStateFile] that has a state, a [WithFallbackFile] or [WithStartOnDefaults] it waits for
// 5 s or half of the time that ctx leaves, whichever is shorter, then starts from the first of these three, and takes
// over etcd's state when etcd answers. Use a client made by etcdkit.OpenLazy for that. [Source.Status] says where it
// stands. A refusal (no permission, a wrong password) is an error in any case.
func Open(ctx context.Context, c Client, dir string, o ...Option) (*Source, error) {
	set, err := newOptions(c, dir, o)
	if err == nil && ctx == nil {
		err = invalid("nil context")
	}
	if err != nil {
		return nil, opError("open", dir, err)
	}
	s := newSource(c, dir, &set)
	if err = s.readFiles(); err == nil {
		err = s.start(ctx, c)
	}
	if err != nil {
		_ = s.Close() // err says what matters
		return nil, opError("open", dir, err)
	}
	return s, nil
}

func newSource(c Client, dir string, set *options) *Source {
	dir, _ = keyspace.Dir(dir) // newSettings has checked it
	s := &Source{
		dir: dir, store: c.KV().Namespace(dir), options: *set, openedAt: time.Now(), origin: Defaults,
		stateDirty: make(chan struct{}, 1), applied: make(chan struct{}),
		listeners: make(map[*listener]struct{}), callbacks: make(map[callbackRunner]struct{}), reportedBad: make(map[string]int64),
		variables: make(map[string]string),
	}
	//nolint:forbidigo // the source must not live by the context that Open is bounded by
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.layers = layers{env: set.environ(), etcd: layer{}, fallback: layer{}}
	if set.errorHandler != nil {
		s.errorQueue = newListenerQueue(func(r report) {
			s.runCallback("error handler", r.key, func() { set.errorHandler(r.key, r.rev, r.err) })
		}, keepNewerHalf)
		s.callbacks[s.errorQueue] = struct{}{}
		go s.errorQueue.run()
	}
	return s
}

// Close ends the watch, writes the state file, and waits for the functions given to Follow and [WithErrorHandler], which
// must not call it: 5 s at the most; then the error matches context.DeadlineExceeded. It is idempotent. Afterwards what
// reads from memory goes on with the last state, and everything else returns [ErrClosed].
func (s *Source) Close() error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.cancel()
		s.wg.Wait()
		var err error
		if r := s.replica.Load(); r != nil {
			err = r.Close()
		}
		err = errors.Join(err, s.finalSave(), s.stopCallbacks())
		if err != nil {
			s.closeErr = opError("close", s.dir, err)
		}
	})
	return s.closeErr
}

// stopCallbacks ends all functions that are told of something.
func (s *Source) stopCallbacks() error {
	s.mu.Lock()
	all := make([]callbackRunner, 0, len(s.callbacks))
	for r := range s.callbacks {
		all = append(all, r)
	}
	clear(s.callbacks)
	clear(s.listeners)
	s.mu.Unlock()
	for _, r := range all {
		r.close()
	}
	timeout := time.NewTimer(closeTimeout)
	defer timeout.Stop()
	for i, r := range all {
		select {
		case <-r.ended():
		case <-timeout.C:
			return fmt.Errorf("%d functions may still run after %v: %w", len(all)-i, closeTimeout, context.DeadlineExceeded)
		}
	}
	return nil
}

// startCallback starts a tail, and returns what stops it. forget is called first then.
func (s *Source) startCallback(t callbackRunner, run, forget func()) (stop func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return func() {}, false
	}
	s.callbacks[t] = struct{}{}
	go run()
	return func() {
		forget()
		s.mu.Lock()
		delete(s.callbacks, t)
		s.mu.Unlock()
		t.close()
		if !insideCallback() {
			<-t.ended()
		}
	}, true
}

// checkOpen is ErrClosed after Close.
func (s *Source) checkOpen() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return errs.ClosedError("source")
	}
	return nil
}

// Status says where what the source shows comes from, how old it is, and why it is no better. It sends nothing.
func (s *Source) Status() Status {
	s.mu.RLock()
	st := Status{Origin: s.origin, Revision: s.appliedRevision, Err: s.connectErr}
	closed := s.closed
	s.mu.RUnlock()
	switch st.Origin {
	case Live:
		r := s.replica.Load()
		st.Age, st.Err = r.Age(), r.Err()
	case StateFile:
		st.Age = max(time.Since(s.saved.at), 0)
	case FallbackFile:
		st.Age = max(time.Since(s.fallbackWrittenAt), 0)
	default:
		st.Age = time.Since(s.openedAt)
	}
	if closed {
		st.Err = errs.ClosedError("source")
	}
	return st
}

// Stats returns the counters. It sends nothing.
func (s *Source) Stats() Stats {
	s.mu.RLock()
	bounds := s.boundValues
	out := Stats{Keys: s.layers.size(), Bound: len(bounds), Following: len(s.callbacks)}
	s.mu.RUnlock()
	if s.errorQueue != nil {
		out.Following = max(out.Following-1, 0)
	}
	for _, b := range bounds {
		if b.Err() != nil {
			out.Bad++
		}
	}
	out.Updates, out.Decodes, out.BadValues = s.updates.Load(), s.decodes.Load(), s.badValues.Load()
	out.Panics, out.Folded, out.Ignored = s.panics.Load(), s.folded.Load(), s.ignored.Load()
	out.StateWrites, out.StateErrors = s.stateWrites.Load(), s.stateErrors.Load()
	return out
}
