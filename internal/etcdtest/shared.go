//go:build unix

package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const (
	endpointsEnv = "ETCDKIT_TEST_ENDPOINTS"
	binaryEnv    = "ETCDKIT_TEST_ETCD"

	// readyWithin bounds the wait for a server's first linearizable answer.
	readyWithin = 30 * time.Second
)

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

// Endpoints returns where the shared server is reached, and starts it if need be. It serves runnable
// Examples, which have no t to fail: it panics when no server can be had, saying how to give one.
func Endpoints() []string {
	eps, err := shared.get()
	if err != nil {
		panic(err)
	}
	return eps
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
		return eps, answers(eps)
	}
	m, err := newMember("shared", config{})
	if err != nil {
		return nil, err
	}
	if err := startMembers(background(), []*member{m}); err != nil {
		m.discard()
		return nil, err
	}
	s.member = m
	return []string{m.endpoint()}, nil
}

func (s *sharedServer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.member != nil {
		s.member.discard()
	}
	releaseDataRoot()
	s.endpoints, s.err, s.member = nil, errors.New("etcdtest: the tests are over, and the shared server with them"), nil
}

// answers reports whether the endpoints give a linearizable answer.
func answers(eps []string) error {
	cli, err := clientv3.New(clientv3.Config{Endpoints: eps, Logger: zap.NewNop()})
	if err != nil {
		return noServer(fmt.Errorf("%s: %w", endpointsEnv, err))
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(background(), 5*time.Second) // it is said to be running
	defer cancel()
	if _, err := cli.Get(ctx, "etcdtest"); err != nil {
		return noServer(fmt.Errorf("%s does not answer: %w", strings.Join(eps, ","), err))
	}
	return nil
}

// background is the context of what belongs to the test process and not to one test.
func background() context.Context {
	return context.Background() //nolint:forbidigo // the shared server and all clean-up outlive any single test
}
