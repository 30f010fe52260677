package config

import (
	"context"
	"errors"
	"log/slog"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// report is what the error handler is told.
type report struct {
	key string
	rev int64
	err error
}

// keepNewerHalf folds reports: the latest are of more use.
func keepNewerHalf(queue []report) []report { return queue[len(queue)/2:] }

// report tells the log and the handler of what went wrong where nobody can be returned an error. key is "" where it is
// about a file.
func (s *Source) report(key string, rev int64, err error) {
	s.options.logger.LogAttrs(context.WithoutCancel(s.ctx), slog.LevelWarn, "config could not be used", s.attrs(key, rev, err)...)
	s.callErrorHandler(key, rev, err)
}

// callErrorHandler tells the error handler.
func (s *Source) callErrorHandler(key string, rev int64, err error) {
	if s.errorQueue != nil {
		s.folded.Add(uint64(s.errorQueue.push(report{key, rev, err}))) //nolint:gosec // not negative
	}
}

// attrs returns the attributes of a log record that have a value.
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

// reportBadValue tells of a value at a key or dir that cannot be used. err consists of [BadValueError]s; those of a dir are
// told one by one. The log is told only when the value was good before.
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

// reportGoodAgain logs the end of what badValue has logged.
func (s *Source) reportGoodAgain(at string) {
	s.options.logger.LogAttrs(context.WithoutCancel(s.ctx), slog.LevelWarn, "config can be used again", s.attrs(at, 0, nil)...)
}

// reportBadOnce is badValue for who may find the same value again and again.
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

// clearReportedBad ends what badOnce has told of.
func (s *Source) clearReportedBad(key string) {
	if !s.hasReportedBad.Load() {
		return // nothing was told
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

// runCallback calls a function of the user's that nobody waits for.
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
		s.options.logger.LogAttrs(context.WithoutCancel(s.ctx), slog.LevelError, "config has called a function that panicked", attrs...)
	}
}
