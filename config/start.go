package config

import (
	"context"
	"errors"
	"time"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/kv"
)

// Timing of a start without etcd.
const (
	startTimeout = 5 * time.Second // how long Open waits for etcd if it can start without it
	minBackoff   = 100 * time.Millisecond
	maxBackoff   = 5 * time.Second
)

// readFiles loads the fallback file and the state file.
func (s *Source) readFiles() error {
	if s.options.hasFallback {
		fallback, written, err := readFallback(s.options.fallback)
		if err != nil {
			return err
		}
		s.layers.fallback, s.fallbackWrittenAt = fallback, written
		s.origin = FallbackFile
	}
	if !s.options.hasState {
		return nil
	}
	removeLeftovers(s.options.state)
	var err error
	if s.saved, err = readState(s.options.state, s.dir); err != nil {
		s.reportError(err)
	}
	if s.saved.ok {
		s.layers.etcd, s.appliedRevision = s.saved.etcd, s.saved.rev
		s.origin = StateFile
	}
	return nil
}

// start connects to etcd now or, if there is something to start from, in the background.
func (s *Source) start(ctx context.Context, c Client) error {
	if err := retry.ContextError(ctx); err != nil {
		return err
	}
	openCtx, cancel := ctx, func() {}
	canStartWithout := s.options.hasFallback || s.saved.ok || s.options.startOnDefaults
	if canStartWithout {
		wait := startTimeout
		if end, ok := ctx.Deadline(); ok {
			wait = min(wait, time.Until(end)/2) // the rest is for the program
		}
		openCtx, cancel = context.WithTimeout(ctx, wait)
	}
	defer cancel()
	err := s.connect(openCtx, c)
	switch {
	case err == nil:
	case !canStartWithout, errors.Is(ctx.Err(), context.Canceled), isPermanent(err):
		return err // a passed deadline is a reason to start without etcd
	default:
		s.options.logger.WarnContext(ctx, "starting without etcd", "dir", s.dir, "origin", s.origin.String(), "error", err)
		s.connectErr = err
		s.wg.Go(func() { s.reconnect(c) })
	}
	if s.options.hasState {
		s.wg.Go(s.saveLoop)
	}
	return nil
}

// isPermanent reports whether retrying is pointless.
func isPermanent(err error) bool {
	for _, is := range []error{errs.Invalid, errs.Permission, errs.Unauthenticated, errs.Closed} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// connect opens the replica and returns once its state has been applied.
func (s *Source) connect(ctx context.Context, c Client) error {
	r, err := cache.OpenReplica(ctx, c, s.dir, kv.Bytes(), cache.WithLogger(s.options.logger))
	if err != nil {
		return errs.Cause(err)
	}
	s.replica.Store(r)
	applied := make(chan struct{})
	first := true
	r.FollowRevisions(func(rev int64, changes []cache.Change[[]byte]) {
		complete := first
		if first = false; complete {
			defer close(applied)
		}
		s.applyRevision(rev, changes, complete)
	})
	<-applied // no RPC: the state is in memory
	return nil
}

// reconnect calls connect until it succeeds or s is closed.
func (s *Source) reconnect(c Client) {
	backoff := retry.Policy{BaseDelay: minBackoff, MaxDelay: maxBackoff}.Backoff()
	backoff.Reset()
	for {
		if retry.Sleep(s.ctx, backoff.NextBackOff()) != nil {
			return
		}
		err := s.connect(s.ctx, c)
		if err == nil {
			s.options.logger.WarnContext(s.ctx, "reached etcd", "dir", s.dir)
			return
		}
		s.mu.Lock()
		s.connectErr = err
		s.mu.Unlock()
		if s.ctx.Err() != nil {
			return
		}
		if errors.Is(err, errs.Closed) { // the client's, permanently
			s.reportError(err)
			return
		}
	}
}
