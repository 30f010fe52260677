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
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
)

// A Source holds the configuration below a directory in memory and keeps it up to date. It is safe
// for concurrent use.
type Source struct {
	dir               string
	store             *kv.Store // rooted at dir
	options           options
	openedAt          time.Time
	saved             savedState // state file as read by Open
	fallbackWrittenAt time.Time  // modification time

	ctx       context.Context //nolint:containedctx // of all goroutines
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
	tracked   *scope.Part // nil until Open has succeeded

	replica    atomic.Pointer[cache.Replica[[]byte]]
	errorQueue *listenerQueue[errorReport] // nil without an error handler
	stateDirty chan struct{}               // capacity 1; set when the state file is out of date

	applyMu sync.Mutex // held while a revision is applied; locked before mu

	mu              sync.RWMutex
	layers          layers // written by applyRevision only
	origin          Origin
	appliedRevision int64         // last revision passed to every bound value and follower
	applied         chan struct{} // closed and replaced when appliedRevision changes
	connectErr      error         // why etcd has not been reached yet
	closed          bool
	boundValues     []boundValue
	listeners       map[*listener]struct{}
	callbacks       map[callbackRunner]struct{}
	reportedBad     map[string]int64  // key to the revision of the last bad value reported by GetOr
	variables       map[string]string // environment variable to the bound key it overrides

	hasReportedBad atomic.Bool // len(reportedBad) > 0

	updates, decodes, badValues, panics, merged, ignored, stateWrites, stateErrors atomic.Uint64
}

// boundValue is a [Value] of any type.
type boundValue interface {
	// covers reports whether key belongs to the value.
	covers(key string) bool
	// update decodes the value from the layers at rev. The returned function notifies followers.
	update(l *layers, rev int64) (notify func())
	// restoreLastGood replaces the value's keys in etcd by those of its last valid value.
	restoreLastGood(etcd layer)
	// Err returns why the current value is not the latest one.
	Err() error
}

// callbackRunner is a listenerQueue of any type.
type callbackRunner interface {
	close()
	stopped() <-chan struct{}
}

// closeTimeout bounds how long Close waits for running callbacks.
const closeTimeout = 5 * time.Second

// Open reads the configuration below dir and follows its changes. It costs one streamed list and
// one server-side watch, which is shared with other watches of dir by the same client.
//
// ctx bounds Open only. By default, Open waits for etcd until ctx ends or, if ctx has no deadline,
// until etcd has not answered for 10 s. If the file of [WithStateFile] contains a state, or
// [WithFallbackFile] or [WithStartOnDefaults] is given, Open can start without etcd. It then waits
// for etcd for 5 s or half of the time until the deadline of ctx, whichever is shorter, starts from
// the first of these three that applies, and switches to etcd's state when etcd answers. To start
// without etcd, use a client created by etcdkit.OpenLazy. [Source.Status] reports the origin in
// use. If etcd rejects the read, as with ErrPermission or a wrong password, Open always returns an
// error.
func Open(ctx context.Context, c Client, dir string, o ...Option) (*Source, error) {
	opts, err := newOptions(c, dir, o)
	if err != nil {
		return nil, opError("open", dir, err)
	}
	s := newSource(c, dir, &opts)
	if err = s.readFiles(); err == nil {
		err = s.start(ctx, c)
	}
	if err != nil {
		_ = s.Close() // err is the cause
		return nil, opError("open", dir, err)
	}
	s.tracked = scope.Track(opts.scope, metrics, s.dir, s.measure)
	return s, nil
}

func newSource(c Client, dir string, opts *options) *Source {
	dir, _ = keyspace.Dir(dir) // validated by newOptions
	s := &Source{
		dir: dir, store: c.KV().Namespace(dir), options: *opts, openedAt: time.Now(), origin: Defaults,
		stateDirty: make(chan struct{}, 1), applied: make(chan struct{}),
		listeners: make(map[*listener]struct{}), callbacks: make(map[callbackRunner]struct{}), reportedBad: make(map[string]int64),
		variables: make(map[string]string),
	}
	//nolint:forbidigo // the source must not depend on the context of Open
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.layers = layers{env: opts.environ(), etcd: layer{}, fallback: layer{}}
	if opts.errorHandler != nil {
		s.errorQueue = newListenerQueue(func(r errorReport) {
			s.runCallback("error handler", r.key, func() { opts.errorHandler(r.key, r.rev, r.err) })
		}, keepNewerHalf)
		s.callbacks[s.errorQueue] = struct{}{}
		go s.errorQueue.run()
	}
	return s
}

// Close stops following etcd, writes the state file, and waits up to 5 s for running callbacks of
// Follow and [WithErrorHandler]. If one is still running, the error matches
// context.DeadlineExceeded. Callbacks must not call Close. Close is idempotent. After Close,
// methods that read memory continue to return the last state; all others return [ErrClosed].
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
		s.tracked.Close()
		if err != nil {
			s.closeErr = opError("close", s.dir, err)
		}
	})
	return s.closeErr
}

// stopCallbacks ends all listener queues and waits for running callbacks.
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
		case <-r.stopped():
		case <-timeout.C:
			return fmt.Errorf("%d functions may still run after %v: %w", len(all)-i, closeTimeout, context.DeadlineExceeded)
		}
	}
	return nil
}

// startCallback registers r and calls run on a new goroutine. stop calls forget, removes r and
// closes it, and then waits for the running callback unless it is called from a callback. ok is
// false if the source is closed.
func (s *Source) startCallback(r callbackRunner, run, forget func()) (stop func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return func() {}, false
	}
	s.callbacks[r] = struct{}{}
	go run()
	return func() {
		forget()
		s.mu.Lock()
		delete(s.callbacks, r)
		s.mu.Unlock()
		r.close()
		if !insideCallback() {
			<-r.stopped()
		}
	}, true
}

// checkOpen returns ErrClosed after Close.
func (s *Source) checkOpen() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return errs.ClosedError("source")
	}
	return nil
}

// Status returns the origin, the revision and the age of the configuration in use. It sends
// nothing.
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

// Stats returns the source's counters. It sends nothing.
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
	out.Panics, out.Folded, out.Ignored = s.panics.Load(), s.merged.Load(), s.ignored.Load()
	out.StateWrites, out.StateErrors = s.stateWrites.Load(), s.stateErrors.Load()
	return out
}
