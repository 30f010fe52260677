package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	harness "github.com/etcdkit/etcdkit/internal/etcdtest"
)

// Server is an etcd of one test: a single server, or a member of a [Cluster]. Methods that return
// no error end the test that started the server if they fail. Methods may be called concurrently.
type Server struct {
	tb      testing.TB
	harness *harness.Server
	single  bool
	admin   func() *clientv3.Client // made at its first use
}

// Start starts a server for this test and returns when it answers. The server and its data are gone
// when the test ends. Start ends the test if the server cannot be started.
func Start(tb testing.TB, o ...Option) *Server {
	tb.Helper()
	return StartCluster(tb, 1, o...).members[0]
}

func newServer(tb testing.TB, s *harness.Server, single bool) *Server {
	tb.Helper()
	admin := sync.OnceValue(func() *clientv3.Client { return s.Client(tb) })
	return &Server{tb: tb, harness: s, single: single, admin: admin}
}

// Config returns the configuration of a client of this server, with a SessionTTL of 2 s and no
// namespace.
func (s *Server) Config() etcdkit.Config { return configOf(s.Endpoint()) }

// Open returns a client of this server, which is closed when the test ends. See [OpenConfig].
func (s *Server) Open(tb testing.TB, o ...etcdkit.Option) *etcdkit.Client {
	tb.Helper()
	return OpenConfig(tb, s.Config(), o...)
}

// Endpoint returns the URL of the server for clients. It stays the same when the server is
// restarted.
func (s *Server) Endpoint() string { return s.harness.Endpoint() }

// Version returns the version of etcd that the server runs, such as "3.7.3".
func (s *Server) Version() string {
	s.tb.Helper()
	return s.harness.Version()
}

// Pause freezes the server as SIGSTOP does: connections stay open and nothing is answered. Pause
// returns when the process no longer runs. On Windows it ends the test.
func (s *Server) Pause() {
	s.tb.Helper()
	s.harness.Pause()
}

// Resume ends Pause.
func (s *Server) Resume() {
	s.tb.Helper()
	s.harness.Resume()
}

// Kill ends the server as SIGKILL does, and returns when its process is gone. Its connections are
// closed, new ones are refused. Kill does nothing if the server does not run.
func (s *Server) Kill() { s.harness.Kill() }

// Restart starts the server on the data and the port that it had, and returns when it answers. A
// server that runs is stopped before, which takes up to 7 s if clients have watches open;
// [Server.Kill] is faster. Restart does not return before a majority of the cluster runs.
func (s *Server) Restart() {
	s.tb.Helper()
	s.harness.Restart()
}

// Wipe kills the server and starts it without its data, as after a restore from an empty backup:
// the cluster ID stays the same, and revisions start again at 1. Wipe ends the test if the server
// is a member of a larger cluster.
func (s *Server) Wipe() {
	s.tb.Helper()
	if !s.single {
		s.tb.Fatal("etcdtest: Wipe: a member of a cluster cannot be started without its data")
	}
	s.harness.Wipe()
}

// Compact removes the history before the current revision, so that reads and watches of earlier
// revisions fail. It costs two RPCs.
func (s *Server) Compact(ctx context.Context) error {
	cli := s.admin()
	resp, err := cli.Get(ctx, "etcdtest", clientv3.WithCountOnly())
	if err == nil {
		_, err = cli.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) { // it is done already
		return fmt.Errorf("etcdtest: compact: %w", err)
	}
	return nil
}

// ExpireLease ends a lease and deletes its keys, as if nobody had renewed it. Sessions have their
// lease as ID. It costs one RPC.
func (s *Server) ExpireLease(ctx context.Context, id clientv3.LeaseID) error {
	if _, err := s.admin().Revoke(ctx, id); err != nil {
		return fmt.Errorf("etcdtest: expire lease %x: %w", id, err)
	}
	return nil
}

// Requests returns how many requests the server has received since it was last started, by service
// and method, such as "KV/Put", "KV/Txn" or "Lease/LeaseKeepAlive". Each message of a stream
// counts. Methods that were not called are missing. Requests of all clients count, and those of
// [Server.Compact] and [Server.ExpireLease].
func (s *Server) Requests() map[string]int {
	s.tb.Helper()
	return s.harness.Requests()
}
