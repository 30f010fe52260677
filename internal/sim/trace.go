package sim

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxTrace is the number of lines that a trace keeps.
const maxTrace = 20_000

// trace records what happens.
type trace struct {
	start time.Time
	mu    sync.Mutex
	lines []string
	total int
	sum   uint64 // of the lines that the scheduler has added
}

func newTrace(start time.Time) *trace { return &trace{start: start} }

func (t *trace) add(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) >= maxTrace {
		t.lines = append(t.lines[:0], t.lines[maxTrace/2:]...)
	}
	t.total++
	t.lines = append(t.lines, fmt.Sprintf("%12.6f %s", time.Since(t.start).Seconds(), text))
}

// Trace adds a line to the trace.
func (s *Sim) Trace(format string, args ...any) { s.trace.add(fmt.Sprintf(format, args...)) }

// note adds a line to the trace and to the fingerprint. It is called by the scheduler only.
func (s *Sim) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, s.trace.sum, time.Since(s.start), text)
	s.trace.sum = h.Sum64()
	s.trace.add(text)
}

// Fingerprint returns a number that is the same for two simulations if the same requests reached
// the members at the same times and in the same order, and the same faults occurred.
func (s *Sim) Fingerprint() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trace.sum
}

// Tail returns the last lines of the trace.
func (s *Sim) Tail(n int) string {
	s.trace.mu.Lock()
	defer s.trace.mu.Unlock()
	lines := s.trace.lines
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Grep returns the last n lines of the trace that contain one of the texts.
func (s *Sim) Grep(n int, texts ...string) string {
	s.trace.mu.Lock()
	defer s.trace.mu.Unlock()
	var out []string
	for _, line := range s.trace.lines {
		for _, text := range texts {
			if strings.Contains(line, text) {
				out = append(out, line)
				break
			}
		}
	}
	return strings.Join(out[max(0, len(out)-n):], "\n")
}

// traceHandler is a handler of slog that writes to the trace.
type traceHandler struct {
	trace  *trace
	prefix string
	attrs  []slog.Attr
}

// Enabled reports whether the level is Warn or above.
func (h *traceHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

// Handle writes a message.
func (h *traceHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: log: %s", h.prefix, r.Message)
	attr := func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	}
	for _, a := range h.attrs {
		attr(a)
	}
	r.Attrs(attr)
	h.trace.add(b.String())
	return nil
}

// WithAttrs returns a handler that adds attributes.
func (h *traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &traceHandler{trace: h.trace, prefix: h.prefix, attrs: append(slices.Clip(h.attrs), attrs...)}
}

// WithGroup ignores the group.
func (h *traceHandler) WithGroup(string) slog.Handler { return h }
