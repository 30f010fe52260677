package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// readyTimeout bounds the wait for a server's first linearizable answer.
const readyTimeout = 30 * time.Second

// shared is the one server of this test binary, started at its first use.
//
//nolint:gochecknoglobals // one for each process is its purpose, and Examples have no t to carry it
var shared sharedServer

type sharedServer struct {
	mu        sync.Mutex
	endpoints []string
	err       error
	member    *member // nil when the server is not ours
}

// Endpoints returns the endpoints of the shared server, and starts it if necessary. It is for
// runnable Examples, which have no t to fail: if there is no server it panics, saying how to
// provide one.
func Endpoints() []string {
	eps, err := shared.get()
	if err != nil {
		panic(err)
	}
	return eps
}

// SharedEndpoints is Endpoints for tests: it ends the test if there is no server.
func SharedEndpoints(tb testing.TB) []string {
	tb.Helper()
	eps, err := shared.get()
	must(tb, err)
	return eps
}

// Versions returns the versions, such as "3.7.3", of the members that ETCDKIT_TEST_ENDPOINTS names,
// or of the servers that are started.
func Versions(tb testing.TB) []string {
	tb.Helper()
	if os.Getenv(endpointsEnv) == "" {
		v, err := serverVersion()
		must(tb, err)
		return []string{v}
	}
	cli := Client(tb)
	var versions []string
	for _, ep := range cli.Endpoints() {
		ctx, cancel := context.WithTimeout(tb.Context(), versionTimeout)
		status, err := cli.Status(ctx, ep)
		cancel()
		must(tb, err)
		versions = append(versions, status.Version)
	}
	return versions
}

func (s *sharedServer) get() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.endpoints == nil && s.err == nil {
		s.endpoints, s.err = s.find()
	}
	return s.endpoints, s.err
}

// running is the shared server's endpoints, or nil as long as nobody has asked for it.
func (s *sharedServer) running() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endpoints
}

func (s *sharedServer) find() ([]string, error) {
	if list := os.Getenv(endpointsEnv); list != "" {
		eps := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
		return eps, checkEndpoints(eps)
	}
	m, err := newMember("shared", config{})
	if err != nil {
		return nil, err
	}
	if err := startMembers(background(), []*member{m}, nil); err != nil {
		m.discard()
		return nil, err
	}
	s.member = m
	return []string{m.endpoint()}, nil
}

// Stop stops the shared server and removes all data. No server can be started after it.
func Stop() { shared.stop() }

func (s *sharedServer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.member != nil {
		s.member.discard()
	}
	releaseDataRoot()
	s.endpoints, s.err, s.member = nil, errors.New("etcdtest: the tests are over, and the shared server with them"), nil
}

// checkEndpoints returns an error if the endpoints give no linearizable answer.
func checkEndpoints(eps []string) error {
	cli, err := clientv3.New(clientv3.Config{Endpoints: eps, Logger: zap.NewNop()})
	if err != nil {
		return noServerError(fmt.Errorf("%s: %w", endpointsEnv, err))
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(background(), 5*time.Second) // it is said to be running
	defer cancel()
	if _, err := cli.Get(ctx, "etcdtest"); err != nil {
		return noServerError(fmt.Errorf("%s does not answer: %w", strings.Join(eps, ","), err))
	}
	return nil
}

// background is the context of what belongs to the test process and not to one test.
func background() context.Context {
	return context.Background() //nolint:forbidigo // the shared server and all clean-up outlive any single test
}
