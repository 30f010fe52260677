package config

import (
	"context"
	"errors"
	"log/slog"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// errorReport holds the arguments of the error handler.
type errorReport struct {
	key string
	rev int64
	err error
}

// keepNewerHalf drops the older half: the latest reports are the most useful.
func keepNewerHalf(queue []errorReport) []errorReport { return queue[len(queue)/2:] }

// reportError logs a background error that concerns no key, and queues a call of the error handler.
func (s *Source) reportError(err error) {
	s.options.logger.LogAttrs(context.WithoutCancel(s.ctx), slog.LevelWarn, "config could not be used", s.attrs("", 0, err)...)
	s.enqueueError("", 0, err)
}

// enqueueError queues a call of the error handler, if there is one.
func (s *Source) enqueueError(key string, rev int64, err error) {
	if s.errorQueue != nil {
		s.merged.Add(uint64(s.errorQueue.push(errorReport{key, rev, err}))) //nolint:gosec // not negative
	}
}

// attrs returns log attributes, omitting those without a value.
func (s *Source) attrs(key string, rev int64, err error) []slog.Attr {
	attrs := []slog.Attr{slog.String("dir", errs.Short(s.dir))}
	if key != "" {
		attrs = append(attrs, slog.String("key", errs.Short(key)))
	}
	if rev != 0 {
		attrs = append(attrs, slog.Int64("revision", rev))
	}
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	}
	return attrs
}

// reportBadValue reports an invalid value of a key or directory. It queues a call of the error
// handler for each invalid key. It logs err only if newlyBad is set, which means that the value was
// not invalid before.
func (s *Source) reportBadValue(at string, newlyBad bool, err error) {
	var rev int64
	for _, bad := range listBad(err) {
		s.badValues.Add(1)
		s.enqueueError(bad.Key, bad.Revision, bad)
		rev = max(rev, bad.Revision)
	}
	if newlyBad {
		s.options.logger.LogAttrs(context.WithoutCancel(s.ctx), slog.LevelWarn, "config could not be used", s.attrs(at, rev, err)...)
	}
}

// reportGoodAgain logs that the key or directory is valid again, after reportBadValue.
func (s *Source) reportGoodAgain(at string) {
	s.options.logger.LogAttrs(context.WithoutCancel(s.ctx), slog.LevelWarn, "config can be used again", s.attrs(at, 0, nil)...)
}

// reportBadOnce is reportBadValue for GetOr, which reads a key again and again. It does nothing if
// this revision of the key was already reported.
func (s *Source) reportBadOnce(err *BadValueError) {
	s.mu.Lock()
	last, seen := s.reportedBad[err.Key]
	s.reportedBad[err.Key] = err.Revision
	s.hasReportedBad.Store(true)
	s.mu.Unlock()
	if !seen || last != err.Revision {
		s.reportBadValue(err.Key, !seen, err)
	}
}

// clearReportedBad records that the value of key is valid. If reportBadOnce has reported it as
// invalid, clearReportedBad logs that it is valid again.
func (s *Source) clearReportedBad(key string) {
	if !s.hasReportedBad.Load() {
		return // nothing was reported
	}
	s.mu.Lock()
	_, seen := s.reportedBad[key]
	delete(s.reportedBad, key)
	s.hasReportedBad.Store(len(s.reportedBad) > 0)
	s.mu.Unlock()
	if seen {
		s.reportGoodAgain(key)
	}
}

// runCallback calls a user's function and logs its panic.
func (s *Source) runCallback(what, key string, f func()) {
	if err := callSafely(f); err != nil {
		s.panics.Add(1)
		attrs := []slog.Attr{slog.String("function", what), slog.Any("error", err)}
		if key != "" {
			attrs = append(attrs, slog.String("key", errs.Short(key)))
		}
		if p, ok := errors.AsType[*PanicError](err); ok {
			attrs = append(attrs, slog.String("stack", string(p.Stack)))
		}
		s.options.logger.LogAttrs(context.WithoutCancel(s.ctx), slog.LevelError, "callback panicked", attrs...)
	}
}
