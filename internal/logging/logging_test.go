package logging_test

import (
	"bytes"
	"log"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/internal/logging"
)

// setDefault makes l the default logger until the test ends. Tests that use it must not run in
// parallel.
func setDefault(t *testing.T, l *slog.Logger) {
	t.Helper()
	before, out, flags := slog.Default(), log.Writer(), log.Flags()
	t.Cleanup(func() {
		slog.SetDefault(before)
		log.SetOutput(out) // SetDefault redirects package log
		log.SetFlags(flags)
	})
	slog.SetDefault(l)
}

// newLogger returns a logger that writes all levels to the buffer, without the time.
func newLogger() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})), &b
}

func TestOrDefault_ReturnsTheGivenLogger(t *testing.T) { //nolint:paralleltest // changes slog.Default
	l, _ := newLogger()
	assert.Same(t, l, logging.OrDefault(l))
}

func TestOrDefault_WritesFromWarnUpToTheCurrentDefault(t *testing.T) { //nolint:paralleltest // changes slog.Default
	// Made before the program sets its default.
	l := logging.OrDefault(nil).With("a", 1).WithGroup("g")
	def, out := newLogger()
	setDefault(t, def)
	l.Debug("no")
	l.Info("no")
	l.Warn("yes", "b", 2)
	l.Error("yes")
	assert.Equal(t, "level=WARN msg=yes a=1 g.b=2\nlevel=ERROR msg=yes a=1\n", out.String())
}

func TestOrDefault_FollowsTheLevelOfTheDefault(t *testing.T) { //nolint:paralleltest // changes slog.Default
	var b bytes.Buffer
	setDefault(t, slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelError})))
	logging.OrDefault(nil).Warn("no")
	assert.Empty(t, b.String())
}

func TestOrDefault_MayItselfBecomeTheDefault(t *testing.T) { //nolint:paralleltest // changes slog.Default
	l := logging.OrDefault(nil)
	setDefault(t, l)
	assert.True(t, l.Enabled(t.Context(), slog.LevelWarn))
	assert.False(t, l.Enabled(t.Context(), slog.LevelInfo))
}
