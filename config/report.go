package config

import (
	"context"
	"errors"
	"log/slog"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// report holds the arguments of the error handler.
type report struct {
	key string
	rev int64
	err error
}

// keepNewerHalf drops the older half: the latest reports are the most useful.
func keepNewerHalf(queue []report) []report { return queue[len(queue)/2:] }

// report logs a background error and passes it to the error handler. key is "" if the error
// concerns a file.
func (s *Source) report(key string, rev int64, err error) {
	s.options.logger.LogAttrs(context.WithoutCancel(s.ctx), slog.LevelWarn, "config could not be used", s.attrs(key, rev, err)...)
	s.callErrorHandler(key, rev, err)
}

// callErrorHandler queues a call of the error handler.
func (s *Source) callErrorHandler(key string, rev int64, err error) {
	if s.errorQueue != nil {
		s.merged.Add(uint64(s.errorQueue.push(report{key, rev, err}))) //nolint:gosec // not negative
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

// reportBadValue reports an invalid value of a key or directory. The error handler is called for
// each invalid key. The error is logged only if first is true, which means that the previous value
// was valid.
func (s *Source) reportBadValue(at string, first bool, err error) {
	var rev int64
	for _, bad := range listBad(err) {
		s.badValues.Add(1)
		s.callErrorHandler(bad.Key, bad.Revision, bad)
		rev = max(rev, bad.Revision)
	}
	if first {
		s.options.logger.LogAttrs(context.WithoutCancel(s.ctx), slog.LevelWarn, "config could not be used", s.attrs(at, rev, err)...)
	}
}

// reportGoodAgain logs that the key or directory is valid again, after reportBadValue.
func (s *Source) reportGoodAgain(at string) {
	s.options.logger.LogAttrs(context.WithoutCancel(s.ctx), slog.LevelWarn, "config can be used again", s.attrs(at, 0, nil)...)
}

// reportBadOnce is like reportBadValue, but ignores repeated reports of one revision.
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

// clearReportedBad forgets that reportBadOnce has reported key, and logs that its value is valid
// again.
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
