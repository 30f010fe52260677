package config

import (
	"context"
	"errors"

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

// report tells of what went wrong where nobody can be returned an error.
func (s *Source) report(key string, rev int64, err error) {
	s.set.logger.WarnContext(context.WithoutCancel(s.ctx), "config could not be used",
		"dir", s.dir, "key", errs.Quote(key), "revision", rev, "error", err)
	if s.reports != nil {
		s.folded.Add(uint64(s.reports.push(report{key, rev, err}))) //nolint:gosec // not negative
	}
}

// bad tells of a value that cannot be used.
func (s *Source) bad(err *BadValueError) {
	s.badValues.Add(1)
	s.report(err.Key, err.Revision, err)
}

// badOnce is bad, for who may find the same value again and again.
func (s *Source) badOnce(err *BadValueError) {
	s.mu.Lock()
	last, seen := s.reported[err.Key]
	s.reported[err.Key] = err.Revision
	s.mu.Unlock()
	if !seen || last != err.Revision {
		s.bad(err)
	}
}

// contained calls a function of the user's that nobody waits for.
func (s *Source) contained(what, key string, f func()) {
	if err := told(f); err != nil {
		s.panics.Add(1)
		stack := ""
		if p, ok := errors.AsType[*PanicError](err); ok {
			stack = string(p.Stack)
		}
		s.set.logger.ErrorContext(context.WithoutCancel(s.ctx), "config has called a function that panicked",
			"function", what, "key", errs.Quote(key), "error", err, "stack", stack)
	}
}
