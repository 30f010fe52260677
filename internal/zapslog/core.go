// Package zapslog gives client/v3, which logs through zap, a logger that forwards to log/slog.
//
// It is the one place where zap is named. Levels are lowered on the way: client/v3 logs each attempt that failed as a
// warning or an error, but its caller gets the same error and may well repeat the call with success.
package zapslog

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"go.uber.org/zap"         //nolint:depguard // client/v3 takes no other logger
	"go.uber.org/zap/zapcore" //nolint:depguard // likewise
)

// invokerMessage is what client/v3 logs before every attempt of a call, the first included.
const invokerMessage = "retrying of unary invoker"

// New returns a logger whose records go to l.
func New(l *slog.Logger) *zap.Logger { return zap.New(&core{handler: l.Handler()}) }

// core is a zapcore.Core over a slog.Handler.
type core struct{ handler slog.Handler }

// level returns the level at which a line of client/v3 is written to the application's log.
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

// background is the context of a line: zap has none to pass on.
func background() context.Context {
	return context.Background() //nolint:forbidigo // zap's interface has no context
}

// Enabled asks the handler.
func (c *core) Enabled(l zapcore.Level) bool { return c.handler.Enabled(background(), level(l)) }

// With returns a core that adds fields to each line.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{handler: c.handler.WithAttrs(attrs(fields))}
}

// Check joins in when the level is wanted.
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write forwards one line. It drops the one that announces the first attempt of a call, which is no retry.
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

// isFirstAttempt reports whether f says that an attempt is the first one.
func isFirstAttempt(f zapcore.Field) bool { return f.Key == "attempt" && f.Integer == 0 }

// Sync has nothing to flush.
func (*core) Sync() error { return nil }

// attrs turns the fields of zap into attributes, ordered by name. Empty texts are dropped.
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
