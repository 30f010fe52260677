// Package logging provides the logger of those constructors that are given none.
package logging

import (
	"context"
	"log/slog"
	"os"
)

// OrDefault returns l, or, if l is nil, a logger that writes the records from Warn up to what [slog.Default] is at the
// time of the record.
func OrDefault(l *slog.Logger) *slog.Logger {
	if l != nil {
		return l
	}
	return slog.New(defaultHandler{derive: func(h slog.Handler) slog.Handler { return h }})
}

// defaultHandler forwards records from Warn up to the handler of slog.Default.
type defaultHandler struct {
	derive func(slog.Handler) slog.Handler // adds the attributes and groups of WithAttrs and WithGroup
}

// current returns the handler of slog.Default. A program may have made a defaultHandler the default, with a logger that
// a client returned: then current returns one that writes to standard error, since forwarding would not end.
func (d defaultHandler) current() slog.Handler {
	h := slog.Default().Handler()
	if _, ok := h.(defaultHandler); ok {
		h = slog.NewTextHandler(os.Stderr, nil)
	}
	return h
}

// Enabled reports whether records of the level are written.
func (d defaultHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && d.current().Enabled(ctx, level)
}

// Handle forwards r.
func (d defaultHandler) Handle(ctx context.Context, r slog.Record) error {
	return d.derive(d.current()).Handle(ctx, r)
}

// WithAttrs returns a handler that adds attrs to each record.
func (d defaultHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return defaultHandler{derive: func(h slog.Handler) slog.Handler { return d.derive(h).WithAttrs(attrs) }}
}

// WithGroup returns a handler that qualifies the attributes of each record with name.
func (d defaultHandler) WithGroup(name string) slog.Handler {
	return defaultHandler{derive: func(h slog.Handler) slog.Handler { return d.derive(h).WithGroup(name) }}
}
