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

// newerHalf folds reports: the latest are of more use.
func newerHalf(queue []report) []report { return queue[len(queue)/2:] }

// report tells the log and the handler of what went wrong where nobody can be returned an error. key is "" where it is
// about a file.
func (s *Source) report(key string, rev int64, err error) {
	s.set.logger.LogAttrs(context.WithoutCancel(s.ctx), slog.LevelWarn, "config could not be used", s.attrs(key, rev, err)...)
	s.handle(key, rev, err)
}

// handle tells the error handler.
func (s *Source) handle(key string, rev int64, err error) {
	if s.reports != nil {
		s.folded.Add(uint64(s.reports.push(report{key, rev, err}))) //nolint:gosec // not negative
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

// badValue tells of a value at a key or dir that cannot be used. err consists of [BadValueError]s; those of a dir are
// told one by one. The log is told only when the value was good before.
func (s *Source) badValue(at string, first bool, err error) {
	var rev int64
	for _, bad := range listBad(err) {
		s.badValues.Add(1)
		s.handle(bad.Key, bad.Revision, bad)
		rev = max(rev, bad.Revision)
	}
	if first {
		s.set.logger.LogAttrs(context.WithoutCancel(s.ctx), slog.LevelWarn, "config could not be used", s.attrs(at, rev, err)...)
	}
}

// goodAgain logs the end of what badValue has logged.
func (s *Source) goodAgain(at string) {
	s.set.logger.LogAttrs(context.WithoutCancel(s.ctx), slog.LevelWarn, "config can be used again", s.attrs(at, 0, nil)...)
}

// badOnce is badValue for who may find the same value again and again.
func (s *Source) badOnce(err *BadValueError) {
	s.mu.Lock()
	last, seen := s.reported[err.Key]
	s.reported[err.Key] = err.Revision
	s.bad.Store(true)
	s.mu.Unlock()
	if !seen || last != err.Revision {
		s.badValue(err.Key, !seen, err)
	}
}

// goodNow ends what badOnce has told of.
func (s *Source) goodNow(key string) {
	if !s.bad.Load() {
		return // nothing was told
	}
	s.mu.Lock()
	_, seen := s.reported[key]
	delete(s.reported, key)
	s.bad.Store(len(s.reported) > 0)
	s.mu.Unlock()
	if seen {
		s.goodAgain(key)
	}
}

// contained calls a function of the user's that nobody waits for.
func (s *Source) contained(what, key string, f func()) {
	if err := told(f); err != nil {
		s.panics.Add(1)
		attrs := []slog.Attr{slog.String("function", what), slog.Any("error", err)}
		if key != "" {
			attrs = append(attrs, slog.String("key", errs.Short(key)))
		}
		if p, ok := errors.AsType[*PanicError](err); ok {
			attrs = append(attrs, slog.String("stack", string(p.Stack)))
		}
		s.set.logger.LogAttrs(context.WithoutCancel(s.ctx), slog.LevelError, "config has called a function that panicked", attrs...)
	}
}
