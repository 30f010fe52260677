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
	startPatience = 5 * time.Second // how long Open waits for etcd where it can start without
	againFirst    = 100 * time.Millisecond
	againMost     = 5 * time.Second
)

// readFiles fills the layers from the files.
func (s *Source) readFiles() error {
	if s.set.hasFallback {
		fallback, written, err := readFallback(s.set.fallback)
		if err != nil {
			return err
		}
		s.layers.fallback, s.file = fallback, written
		s.origin = FallbackFile
	}
	if !s.set.hasState {
		return nil
	}
	removeLeftovers(s.set.state)
	var err error
	if s.saved, err = readState(s.set.state, s.dir); err != nil {
		s.report("", 0, err)
	}
	if s.saved.ok {
		s.layers.etcd, s.shown = s.saved.etcd, s.saved.rev
		s.origin = StateFile
	}
	return nil
}

// start begins to follow etcd, at once or, where there is something to start from, later.
func (s *Source) start(ctx context.Context, c Client) error {
	if err := retry.ContextError(ctx); err != nil {
		return err
	}
	patience, cancel := ctx, func() {}
	without := s.set.hasFallback || s.saved.ok || s.set.onDefaults
	if without {
		wait := startPatience
		if end, ok := ctx.Deadline(); ok {
			wait = min(wait, time.Until(end)/2) //nolint:mnd // half of it is for the rest of the program
		}
		patience, cancel = context.WithTimeout(ctx, wait)
	}
	defer cancel()
	err := s.connect(patience, c)
	switch {
	case err == nil:
	case !without, errors.Is(ctx.Err(), context.Canceled), refused(err):
		return err // a deadline that has passed meanwhile is what a start without etcd is for
	default:
		s.set.logger.WarnContext(ctx, "config starts without etcd", "dir", s.dir, "origin", s.origin.String(), "error", err)
		s.away = err
		s.wg.Go(func() { s.reconnect(c) })
	}
	if s.set.hasState {
		s.wg.Go(s.keepState)
	}
	return nil
}

// refused reports whether waiting is of no use.
func refused(err error) bool {
	for _, is := range []error{errs.Invalid, errs.Permission, errs.Unauthenticated, errs.Closed} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// connect opens the replica, and returns when its state was taken over.
func (s *Source) connect(ctx context.Context, c Client) error {
	r, err := cache.OpenReplica(ctx, c, s.dir, kv.Bytes(), cache.WithLogger(s.set.logger))
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
		s.take(rev, changes, whole)
	})
	<-taken // what it waits for is in memory
	return nil
}

// reconnect tries until etcd answers.
func (s *Source) reconnect(c Client) {
	wait := retry.Policy{BaseDelay: againFirst, MaxDelay: againMost}.Backoff()
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
			s.set.logger.WarnContext(s.ctx, "config has reached etcd", "dir", s.dir)
			return
		}
		s.mu.Lock()
		s.away = err
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
