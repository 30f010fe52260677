package etcdkit_test

import (
	"log/slog"
	"strings"
	"sync"
)

// lockedWriter is a log that many may write to.
type lockedWriter struct {
	mu sync.Mutex
	w  *strings.Builder
}

// Write adds to the log.
func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// String is the log so far.
func (l *lockedWriter) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.String()
}

// logger writes everything.
func (l *lockedWriter) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
