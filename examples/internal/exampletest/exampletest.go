// Package exampletest runs the programs of the examples as their tests do: to the end, or until
// they are interrupted.
package exampletest

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// prompt is how long a program may take to end once it is interrupted: what a client takes to
// close, at the most, and what a slow machine needs.
const prompt = 20 * time.Second

// Program is the run function of an example.
type Program func(ctx context.Context, out io.Writer) error

// Output runs a program on an etcd of its own and returns what it says.
func Output(t *testing.T, run Program) string {
	t.Helper()
	Alone(t)
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	return out.String()
}

// Interrupt runs a program on an etcd of its own, does what Ctrl-C does before it begins, and then
// again as soon as it has said the line. It checks that the program ends at once, with nothing but
// the news that it was interrupted, and leaves nothing on the disk.
func Interrupt(t *testing.T, run Program, line string) {
	t.Helper()
	dir := Alone(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	ends(ended, t, run, &listener{heard: func() {}})

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &listener{line: line, heard: cancel}
	ends(ctx, t, run, out)
	assert.Contains(t, out.String(), line)
	assert.Less(t, out.since(), prompt)
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

// ends waits for the program's end, which has to be that of ctx.
func ends(ctx context.Context, t *testing.T, run Program, out *listener) {
	t.Helper()
	result := make(chan error, 1)
	go func() { result <- run(ctx, out) }()
	select {
	case err := <-result:
		require.ErrorIs(t, err, context.Canceled, "it said:\n%s", out)
	case <-time.After(time.Minute):
		require.FailNow(t, "it does not end", "it said:\n%s", out)
	}
}

// Alone keeps the program from the etcd and the settings of whoever runs the tests.
func Alone(t *testing.T) (temporary string) {
	t.Helper()
	for _, setting := range os.Environ() {
		if name, _, _ := strings.Cut(setting, "="); strings.HasPrefix(name, "ETCD_") {
			t.Setenv(name, "")
		}
	}
	temporary = t.TempDir()
	t.Setenv("TMPDIR", temporary)
	return temporary
}

// listener keeps what is written, and calls heard once that contains the line.
type listener struct {
	mu    sync.Mutex
	text  strings.Builder
	line  string
	heard func()
	at    time.Time
}

// Write takes what the program says.
func (l *listener) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.text.Write(p)
	if l.at.IsZero() && strings.Contains(l.text.String(), l.line) {
		l.at = time.Now()
		l.heard()
	}
	return n, err
}

// String is what was said so far.
func (l *listener) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// since is how long ago the line was said.
func (l *listener) since() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.at)
}
