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

// The pace of starting without etcd.
const (
	startTimeout = 5 * time.Second // how long Open waits for etcd where it can start without
	minBackoff   = 100 * time.Millisecond
	maxBackoff   = 5 * time.Second
)

// readFiles fills the layers from the files.
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
		s.report("", 0, err)
	}
	if s.saved.ok {
		s.layers.etcd, s.appliedRevision = s.saved.etcd, s.saved.rev
		s.origin = StateFile
	}
	return nil
}

// start begins to follow etcd, at once or, where there is something to start from, later.
func (s *Source) start(ctx context.Context, c Client) error {
	if err := retry.ContextError(ctx); err != nil {
		return err
	}
	openCtx, cancel := ctx, func() {}
	canStartWithout := s.options.hasFallback || s.saved.ok || s.options.startOnDefaults
	if canStartWithout {
		wait := startTimeout
		if end, ok := ctx.Deadline(); ok {
			wait = min(wait, time.Until(end)/2) //nolint:mnd // half of it is for the rest of the program
		}
		openCtx, cancel = context.WithTimeout(ctx, wait)
	}
	defer cancel()
	err := s.connect(openCtx, c)
	switch {
	case err == nil:
	case !canStartWithout, errors.Is(ctx.Err(), context.Canceled), isPermanent(err):
		return err // a deadline that has passed meanwhile is what a start without etcd is for
	default:
		s.options.logger.WarnContext(ctx, "config starts without etcd", "dir", s.dir, "origin", s.origin.String(), "error", err)
		s.connectErr = err
		s.wg.Go(func() { s.reconnect(c) })
	}
	if s.options.hasState {
		s.wg.Go(s.saveLoop)
	}
	return nil
}

// isPermanent reports whether waiting is of no use.
func isPermanent(err error) bool {
	for _, is := range []error{errs.Invalid, errs.Permission, errs.Unauthenticated, errs.Closed} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// connect opens the replica, and returns when its state was taken over.
func (s *Source) connect(ctx context.Context, c Client) error {
	r, err := cache.OpenReplica(ctx, c, s.dir, kv.Bytes(), cache.WithLogger(s.options.logger))
	if err != nil {
		return reason(err)
	}
	s.replica.Store(r)
	taken := make(chan struct{})
	first := true
	r.FollowRevisions(func(rev int64, changes []cache.Change[[]byte]) {
		whole := first
		if first = false; whole {
			defer close(taken)
		}
		s.applyRevision(rev, changes, whole)
	})
	<-taken // what it waits for is in memory
	return nil
}

// reconnect tries until etcd answers.
func (s *Source) reconnect(c Client) {
	wait := retry.Policy{BaseDelay: minBackoff, MaxDelay: maxBackoff}.Backoff()
	wait.Reset()
	for {
		pause := time.NewTimer(wait.NextBackOff())
		select {
		case <-pause.C:
		case <-s.ctx.Done():
			pause.Stop()
			return
		}
		err := s.connect(s.ctx, c)
		if err == nil {
			s.options.logger.WarnContext(s.ctx, "config has reached etcd", "dir", s.dir)
			return
		}
		s.mu.Lock()
		s.connectErr = err
		s.mu.Unlock()
		if s.ctx.Err() != nil {
			return
		}
		if errors.Is(err, errs.Closed) { // the client's, for ever
			s.report("", 0, err)
			return
		}
	}
}
