// Package logging provides the default logger of the library.
package logging

import (
	"context"
	"log/slog"
	"os"
)

// OrDefault returns l. If l is nil, it returns a logger that forwards records from Warn up to
// [slog.Default], as it is when the record is written.
func OrDefault(l *slog.Logger) *slog.Logger {
	if l != nil {
		return l
	}
	return slog.New(defaultHandler{derive: func(h slog.Handler) slog.Handler { return h }})
}

// defaultHandler forwards records from Warn up to the handler of slog.Default.
type defaultHandler struct {
	derive func(slog.Handler) slog.Handler // applies WithAttrs and WithGroup
}

// current returns the handler of slog.Default. If that is a defaultHandler, because a program has
// set a logger of this library as the default, current returns one that writes to standard error.
// Forwarding would otherwise never end.
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
