package etcdtest

import (
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/etcdkit/etcdkit"
	harness "github.com/etcdkit/etcdkit/internal/etcdtest"
)

// sessionTTL is the shortest TTL that etcd grants.
const sessionTTL = 2 * time.Second

// Main runs the tests of a package, stops the shared server, removes its data, and exits:
//
//	func TestMain(m *testing.M) { etcdtest.Main(m) }
//
// Without it the server ends with the process all the same, and the next run removes the data.
func Main(m *testing.M) {
	code := m.Run()
	harness.Stop()
	os.Exit(code)
}

// Config returns the configuration of a client of the shared server, which it starts if necessary:
// the endpoints, a namespace that no other call returns, and a SessionTTL of 2 s. The namespace is
// emptied when the test ends. Config ends the test if there is no server.
//
// Clients that are opened with the same Config share their namespace, as replicas of one program
// do.
func Config(tb testing.TB) etcdkit.Config {
	tb.Helper()
	c := configOf(harness.SharedEndpoints(tb)...)
	c.Namespace = harness.Prefix(tb)
	return c
}

func configOf(endpoints ...string) etcdkit.Config {
	return etcdkit.Config{Endpoints: endpoints, SessionTTL: etcdkit.Duration(sessionTTL)}
}

// Open returns a client of the shared server with a [Config] of its own, so that tests may use the
// same keys in parallel. The client is closed when the test ends, and its namespace emptied.
func Open(tb testing.TB, o ...etcdkit.Option) *etcdkit.Client {
	tb.Helper()
	return OpenConfig(tb, Config(tb), o...)
}

// OpenConfig opens a client, ends the test if that fails, and closes the client when the test ends.
// The client may be closed before. Its log, from Warn up, goes to the log of the test unless o has
// [etcdkit.WithLogger].
func OpenConfig(tb testing.TB, c etcdkit.Config, o ...etcdkit.Option) *etcdkit.Client {
	tb.Helper()
	log := newTestLog(tb)
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	client, err := etcdkit.Open(tb.Context(), c, append([]etcdkit.Option{etcdkit.WithLogger(logger)}, o...)...)
	if err != nil {
		tb.Fatalf("etcdtest: %v", err)
	}
	// A lease that a dead server did not revoke is no failure of the test.
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// testLog writes to the log of a test until the test ends. Later writes would panic.
type testLog struct {
	mu  sync.Mutex
	out io.Writer
}

func newTestLog(tb testing.TB) *testLog {
	tb.Helper()
	l := &testLog{out: tb.Output()}
	tb.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.out = io.Discard
	})
	return l
}

// Write writes to the log.
func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}
