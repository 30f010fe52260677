package etcdtest

import (
	"context"
	"errors"
	"iter"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// stopTimeout bounds a graceful stop. A server waits 7 s for open watch streams before it cuts
// them.
const stopTimeout = 15 * time.Second

// Server is an etcd process of one test: a single server, or a member of a [Cluster].
// Its methods fail the test when they cannot do what they say.
type Server struct {
	t      testing.TB
	member *member
	as     func(*clientv3.Config) // credentials of the harness's own clients
}

// Start runs a private server and returns when it answers. It is gone when the test ends.
func Start(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	return StartCluster(tb, 1, opts...).Members[0]
}

// Endpoint is the URL that clients reach the server at. It stays the same over restarts.
func (s *Server) Endpoint() string { return s.member.endpoint() }

// Endpoints is Endpoint as clientv3.Config wants it.
func (s *Server) Endpoints() []string { return []string{s.Endpoint()} }

// Version returns the version of etcd that the server runs, such as "3.7.3".
func (s *Server) Version() string {
	s.t.Helper()
	v, err := serverVersion()
	must(s.t, err)
	return v
}

// PID is the number of the server's current or last process.
func (s *Server) PID() int { return s.member.process().cmd.Process.Pid }

// Running reports whether the server's process exists, paused or not.
func (s *Server) Running() bool { return !s.member.process().exited() }

// Client returns a plain client of this server alone, closed when the test ends. It uses the TLS
// settings that the server was started with, and no credentials.
func (s *Server) Client(tb testing.TB, opts ...func(*clientv3.Config)) *clientv3.Client {
	tb.Helper()
	return newClient(tb, s.clientConfig(), opts...)
}

func (s *Server) clientConfig() clientv3.Config {
	cfg := clientv3.Config{Endpoints: s.Endpoints()}
	if s.member.cfg.tls != nil {
		cfg.TLS = s.member.cfg.tls.Client
	}
	return cfg
}

// Pause suspends the process with SIGSTOP: its connections stay open, but it does not respond.
// Pause returns once the process is suspended.
func (s *Server) Pause() {
	s.t.Helper()
	must(s.t, s.member.process().pause())
}

// Resume continues a paused process.
func (s *Server) Resume() {
	s.t.Helper()
	must(s.t, s.member.process().resume())
}

// Kill ends the process with SIGKILL, even if it is paused, and returns when it has exited. If the
// server is not running, Kill does nothing.
func (s *Server) Kill() { s.member.kill() }

// Stop ends the process with SIGTERM, even if it is paused, and returns when it has exited. This
// takes up to 7 s if clients have watches open. If the server is not running, Stop does nothing.
func (s *Server) Stop() {
	s.t.Helper()
	if s.Running() {
		must(s.t, s.member.process().stop(stopTimeout))
	}
}

// Launch starts the server again with its data and ports. It does not wait until the server
// answers; call WaitReady for that. Use Launch for a member of a cluster without quorum, which
// would not become ready.
func (s *Server) Launch() {
	s.t.Helper()
	must(s.t, s.member.launch())
}

// WaitReady returns when the server answers a linearizable read. It waits 30 s at most.
func (s *Server) WaitReady() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), readyTimeout)
	defer cancel()
	must(s.t, s.member.waitReady(ctx))
}

// SetBinary makes the next Launch or Restart run the etcd at path, or, if path is empty, the one
// that tests run by default.
func (s *Server) SetBinary(path string) {
	s.t.Helper()
	s.member.command = []string{path}
	if path == "" {
		var err error
		s.member.command, err = serverCommand()
		must(s.t, err)
	}
}

// Restart stops the server if it runs, starts it on its data and its ports, and waits until it
// answers.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.Launch()
	s.WaitReady()
}

// Wipe kills a single server and starts it without its data: the cluster ID stays, the revision
// begins at 1 again, keys, leases and accounts are gone. A member of a larger cluster cannot come
// back that way: see [Cluster.Wipe].
func (s *Server) Wipe() {
	s.t.Helper()
	s.Kill()
	must(s.t, s.member.removeData())
	s.as = nil
	s.Launch()
	s.WaitReady()
}

// Compact drops the history below rev, or below the current revision when rev is 0, and returns
// that revision. It is complete on return, unless the history was dropped already.
func (s *Server) Compact(rev int64) int64 {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), readyTimeout)
	defer cancel()
	cli := s.admin()
	if rev == 0 {
		resp, err := cli.Get(ctx, "etcdtest")
		must(s.t, err)
		rev = resp.Header.Revision
	}
	_, err := cli.Compact(ctx, rev, clientv3.WithCompactPhysical())
	if !errors.Is(err, rpctypes.ErrCompacted) {
		must(s.t, err)
	}
	return rev
}

// admin is a client that may do everything.
func (s *Server) admin() *clientv3.Client {
	s.t.Helper()
	if s.as == nil {
		return s.Client(s.t)
	}
	return s.Client(s.t, s.as)
}

// Metric returns a metric of the server, such as "etcd_debugging_mvcc_watcher_total", or 0 if it
// has not been counted yet. A name without labels adds up all of its series; with labels it is one
// series, written exactly as the server writes it.
func (s *Server) Metric(name string) float64 {
	s.t.Helper()
	var sum float64
	for series, v := range s.metrics() {
		if base, _, _ := strings.Cut(series, "{"); series == name || base == name {
			sum += v
		}
	}
	return sum
}

// Requests returns how many requests the server has received since its process started, by service
// and method, such as "KV/Put". Each message of a stream counts. Methods without requests are
// missing.
func (s *Server) Requests() map[string]int {
	s.t.Helper()
	requests := map[string]int{}
	for series, v := range s.metrics() {
		labels, ok := strings.CutPrefix(series, "grpc_server_msg_received_total{")
		if !ok || v == 0 {
			continue
		}
		service := label(labels, "grpc_service")
		requests[service[strings.LastIndexByte(service, '.')+1:]+"/"+label(labels, "grpc_method")] += int(v)
	}
	return requests
}

// label returns the value of a label of a series.
func label(labels, name string) string {
	_, rest, _ := strings.Cut(labels, name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// metrics yields the series of the server, each as the server writes it, and their values.
func (s *Server) metrics() iter.Seq2[string, float64] {
	s.t.Helper()
	page, err := s.member.fetch(s.t.Context(), "/metrics")
	must(s.t, err)
	return func(yield func(string, float64) bool) {
		for line := range strings.Lines(page) {
			line = strings.TrimSpace(line)
			i := strings.LastIndexByte(line, ' ')
			if strings.HasPrefix(line, "#") || i < 0 {
				continue
			}
			v, err := strconv.ParseFloat(line[i+1:], 64)
			must(s.t, err)
			if !yield(line[:i], v) {
				return
			}
		}
	}
}

// must ends the test if err is not nil.
func must(tb testing.TB, err error) {
	if err != nil {
		tb.Helper()
		tb.Fatal(err)
	}
}
