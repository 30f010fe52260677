// Package zapslog provides a zap logger for client/v3 that forwards to log/slog.
//
// No other package of the library needs zap, except for tests. Errors are forwarded at Info, and
// warnings and below at Debug: client/v3 logs each failed attempt as a warning or an error, but its
// caller gets the same error and may repeat the call successfully.
package zapslog

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"go.uber.org/zap"         //nolint:depguard // client/v3 accepts no other logger
	"go.uber.org/zap/zapcore" //nolint:depguard // likewise
)

// invokerMessage is logged by client/v3 before every attempt of a call, including the first.
const invokerMessage = "retrying of unary invoker"

// New returns a logger that forwards its records to l.
func New(l *slog.Logger) *zap.Logger { return zap.New(&core{handler: l.Handler()}) }

// core is a zapcore.Core that writes to a slog.Handler.
type core struct{ handler slog.Handler }

// level returns the slog level for a zap level.
func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.DPanicLevel:
		return slog.LevelError
	case l == zapcore.ErrorLevel:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

// background returns the context for all records.
func background() context.Context {
	return context.Background() //nolint:forbidigo // zap's interface has no context
}

// Enabled reports whether the handler writes records of the level.
func (c *core) Enabled(l zapcore.Level) bool { return c.handler.Enabled(background(), level(l)) }

// With returns a core that adds fields to each record.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{handler: c.handler.WithAttrs(attrs(fields))}
}

// Check adds c to ce if the level is enabled.
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write forwards one record. It drops the one for the first attempt of a call, which is not a
// retry.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if e.Message == invokerMessage && slices.ContainsFunc(fields, isFirstAttempt) {
		return nil
	}
	r := slog.NewRecord(e.Time, level(e.Level), e.Message, 0)
	if e.LoggerName != "" {
		r.AddAttrs(slog.String("logger", e.LoggerName))
	}
	r.AddAttrs(attrs(fields)...)
	return c.handler.Handle(background(), r)
}

// isFirstAttempt reports whether f is the number of a first attempt.
func isFirstAttempt(f zapcore.Field) bool { return f.Key == "attempt" && f.Integer == 0 }

// Sync does nothing.
func (*core) Sync() error { return nil }

// attrs returns the fields as attributes, sorted by name. It drops empty strings.
func attrs(fields []zapcore.Field) []slog.Attr {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	out := make([]slog.Attr, 0, len(enc.Fields))
	for _, k := range slices.Sorted(maps.Keys(enc.Fields)) {
		if v := enc.Fields[k]; v != "" {
			out = append(out, slog.Any(k, v))
		}
	}
	return out
}
