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
	dir   string
	store *kv.Store // below the dir
	set   settings
	born  time.Time
	saved saved     // what the state file had at Open
	file  time.Time // when the fallback file was written

	ctx    context.Context //nolint:containedctx // the life of all goroutines
	stop   context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
	endErr error

	replica atomic.Pointer[cache.Replica[[]byte]]
	reports *tail[report] // nil without a handler
	changed chan struct{} // holds one: the state file is out of date

	taking sync.Mutex // held while a revision is taken over, before mu: until then, bound values are behind the layers

	mu        sync.RWMutex
	layers    layers // changed by take alone
	origin    Origin
	shown     int64         // everything that depends on this revision was told of it
	moved     chan struct{} // closed when shown has changed
	away      error         // why etcd has not been reached yet
	closed    bool
	bounds    []bound
	listeners map[*listener]struct{}
	runners   map[runner]struct{}
	reported  map[string]int64  // by key: the revision of the last bad value that GetOr has reported
	variables map[string]string // by variable of the environment: the bound key that it overrides

	bad atomic.Bool // reported is not empty

	updates, decodes, badValues, panics, folded, ignored, stateWrites, stateErrors atomic.Uint64
}

// bound is a Value of any type.
type bound interface {
	// touched reports whether a key belongs to it.
	touched(key string) bool
	// update takes over what the layers have at rev; tell tells those who follow it.
	update(l *layers, rev int64) (tell func())
	// keep makes an etcd layer that it can use of one that it cannot.
	keep(etcd layer)
	// Err is why it cannot.
	Err() error
}

// runner is a tail of any type.
type runner interface {
	finish()
	ended() <-chan struct{}
}

// closePatience is how long Close waits for functions of the user.
const closePatience = 5 * time.Second

// Open reads the configuration below dir and follows it. It costs a streamed list, and a server-side watch that it shares
// with whoever watches the same dir through the client's watcher.
//
// ctx bounds Open alone. Without a file it waits for etcd as long as ctx allows, and without a deadline until nothing has
// happened for 10 s. With a [WithStateFile] that has a state, a [WithFallbackFile] or [WithStartOnDefaults] it waits for
// 5 s or half of the time that ctx leaves, whichever is shorter, then starts from the first of these three, and takes
// over etcd's state when etcd answers. Use a client made by etcdkit.OpenLazy for that. [Source.Status] says where it
// stands. A refusal (no permission, a wrong password) is an error in any case.
func Open(ctx context.Context, c Client, dir string, o ...Option) (*Source, error) {
	set, err := newSettings(c, dir, o)
	if err == nil && ctx == nil {
		err = invalid("nil context")
	}
	if err != nil {
		return nil, fail("open", dir, err)
	}
	s := newSource(c, dir, &set)
	if err = s.readFiles(); err == nil {
		err = s.start(ctx, c)
	}
	if err != nil {
		_ = s.Close() // err says what matters
		return nil, fail("open", dir, err)
	}
	return s, nil
}

func newSource(c Client, dir string, set *settings) *Source {
	dir, _ = keyspace.Dir(dir) // newSettings has checked it
	s := &Source{
		dir: dir, store: c.KV().Namespace(dir), set: *set, born: time.Now(), origin: Defaults,
		changed: make(chan struct{}, 1), moved: make(chan struct{}),
		listeners: make(map[*listener]struct{}), runners: make(map[runner]struct{}), reported: make(map[string]int64),
		variables: make(map[string]string),
	}
	//nolint:forbidigo // the source must not live by the context that Open is bounded by
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.layers = layers{env: set.environ(), etcd: layer{}, fallback: layer{}}
	if set.handler != nil {
		s.reports = newTail(func(r report) {
			s.contained("error handler", r.key, func() { set.handler(r.key, r.rev, r.err) })
		}, newerHalf)
		s.runners[s.reports] = struct{}{}
		go s.reports.run()
	}
	return s
}

// Close ends the watch, writes the state file, and waits for the functions given to Follow and [WithErrorHandler], which
// must not call it: 5 s at the most; then the error matches context.DeadlineExceeded. It is idempotent. Afterwards what
// reads from memory goes on with the last state, and everything else returns [ErrClosed].
func (s *Source) Close() error {
	s.once.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.stop()
		s.wg.Wait()
		var err error
		if r := s.replica.Load(); r != nil {
			err = r.Close()
		}
		err = errors.Join(err, s.lastSave(), s.endRunners())
		if err != nil {
			s.endErr = fail("close", s.dir, err)
		}
	})
	return s.endErr
}

// endRunners ends all functions that are told of something.
func (s *Source) endRunners() error {
	s.mu.Lock()
	all := make([]runner, 0, len(s.runners))
	for r := range s.runners {
		all = append(all, r)
	}
	clear(s.runners)
	clear(s.listeners)
	s.mu.Unlock()
	for _, r := range all {
		r.finish()
	}
	patience := time.NewTimer(closePatience)
	defer patience.Stop()
	for i, r := range all {
		select {
		case <-r.ended():
		case <-patience.C:
			return fmt.Errorf("%d functions may still run after %v: %w", len(all)-i, closePatience, context.DeadlineExceeded)
		}
	}
	return nil
}

// follow starts a tail, and returns what stops it. forget is called first then.
func (s *Source) follow(t runner, run, forget func()) (stop func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return func() {}, false
	}
	s.runners[t] = struct{}{}
	go run()
	return func() {
		forget()
		s.mu.Lock()
		delete(s.runners, t)
		s.mu.Unlock()
		t.finish()
		if !insideTold() {
			<-t.ended()
		}
	}, true
}

// usable is ErrClosed after Close.
func (s *Source) usable() error {
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
	st := Status{Origin: s.origin, Revision: s.shown, Err: s.away}
	closed := s.closed
	s.mu.RUnlock()
	switch st.Origin {
	case Live:
		r := s.replica.Load()
		st.Age, st.Err = r.Age(), r.Err()
	case StateFile:
		st.Age = max(time.Since(s.saved.at), 0)
	case FallbackFile:
		st.Age = max(time.Since(s.file), 0)
	default:
		st.Age = time.Since(s.born)
	}
	if closed {
		st.Err = errs.ClosedError("source")
	}
	return st
}

// Stats returns the counters. It sends nothing.
func (s *Source) Stats() Stats {
	s.mu.RLock()
	bounds := s.bounds
	out := Stats{Keys: s.layers.size(), Bound: len(bounds), Following: len(s.runners)}
	s.mu.RUnlock()
	if s.reports != nil {
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
