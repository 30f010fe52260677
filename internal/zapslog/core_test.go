package zapslog_test

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/etcdkit/etcdkit/internal/zapslog"
)

func logger(l slog.Level) (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: l, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})), &b
}

func TestCore_ForwardsRecordsAtLowerLevel(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   zapcore.Level
		want string
	}{
		{"debug", zapcore.DebugLevel, "DEBUG"},
		{"info", zapcore.InfoLevel, "DEBUG"},
		{"failed attempt", zapcore.WarnLevel, "DEBUG"},
		{"failed stream", zapcore.ErrorLevel, "INFO"},
		{"broken invariant", zapcore.DPanicLevel, "ERROR"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, out := logger(slog.LevelDebug)
			zapslog.New(l).Named("etcd").With(zap.String("target", "x")).Log(tt.in, "it happened", zap.Uint("attempt", 2), zap.Error(errors.New("why")))
			assert.Equal(t, "level="+tt.want+" msg=\"it happened\" target=x logger=etcd attempt=2 error=why\n", out.String())
		})
	}
}

func TestCore_RespectsLevelOfHandler(t *testing.T) {
	t.Parallel()
	l, out := logger(slog.LevelWarn)
	z := zapslog.New(l)
	assert.Nil(t, z.Check(zapcore.WarnLevel, "unwanted"))
	assert.NotNil(t, z.Check(zapcore.DPanicLevel, "wanted"))
	z.Warn("unwanted")
	assert.Empty(t, out.String())
	require.NoError(t, z.Sync())
}

func TestCore_DropsEmptyAttributes(t *testing.T) {
	t.Parallel()
	l, out := logger(slog.LevelDebug)
	zapslog.New(l).With(zap.String("target", "")).Info("it happened", zap.String("peer", ""), zap.Error(nil), zap.Int("n", 0))
	assert.Equal(t, "level=DEBUG msg=\"it happened\" n=0\n", out.String())
}

func TestCore_DropsTheFirstAttemptOfACall(t *testing.T) {
	t.Parallel()
	l, out := logger(slog.LevelDebug)
	z := zapslog.New(l)
	z.Debug("retrying of unary invoker", zap.String("method", "/m"), zap.Uint("attempt", 0))
	assert.Empty(t, out.String())
	z.Debug("retrying of unary invoker", zap.Uint("attempt", 1))
	z.Warn("retrying of unary invoker failed", zap.Uint("attempt", 0))
	assert.Equal(t, "level=DEBUG msg=\"retrying of unary invoker\" attempt=1\nlevel=DEBUG msg=\"retrying of unary invoker failed\" attempt=0\n", out.String())
}
