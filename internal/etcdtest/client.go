package etcdtest

import (
	"context"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Client returns a plain client of the shared server, closed when the test ends. It logs nothing
// and is neither namespaced nor hardened. Each of opts may change its configuration, in order.
func Client(tb testing.TB, opts ...func(*clientv3.Config)) *clientv3.Client {
	tb.Helper()
	return newClient(tb, clientv3.Config{Endpoints: SharedEndpoints(tb)}, opts...)
}

func newClient(tb testing.TB, cfg clientv3.Config, opts ...func(*clientv3.Config)) *clientv3.Client {
	tb.Helper()
	cli, err := connect(tb, cfg, opts...)
	must(tb, err)
	return cli
}

// connect returns a client that is closed with the test.
func connect(tb testing.TB, cfg clientv3.Config, opts ...func(*clientv3.Config)) (*clientv3.Client, error) {
	tb.Helper()
	cfg.DialTimeout = 5 * time.Second
	cfg.Logger = zap.NewNop()
	for _, opt := range opts {
		opt(&cfg)
	}
	cli, err := clientv3.New(cfg)
	if err != nil {
		return nil, err
	}
	tb.Cleanup(func() { _ = cli.Close() }) // a test may have closed it already
	return cli, nil
}

// Prefix returns a key prefix that no other test uses, ending in "/". What lies below
// it on the shared server is deleted when the test ends.
func Prefix(tb testing.TB) string {
	tb.Helper()
	dir := "etcdtest/" + plain(tb.Name()) + "-" + strconv.FormatUint(rand.Uint64(), 36) + "/"
	tb.Cleanup(func() {
		tb.Helper()
		eps := shared.running()
		if eps == nil {
			return // the test used a server of its own, which is gone with all its keys
		}
		cli, err := clientv3.New(clientv3.Config{Endpoints: eps, Logger: zap.NewNop()})
		must(tb, err)
		defer cli.Close()
		ctx, cancel := context.WithTimeout(background(), 10*time.Second)
		defer cancel()
		_, err = cli.Delete(ctx, dir, clientv3.WithPrefix())
		must(tb, err)
	})
	return dir
}

// plain maps a test's name to what fits into one path element, no longer than it takes to recognise
// it.
func plain(name string) string {
	const long = 64
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_':
			return r
		default:
			return '-'
		}
	}, name)
	return name[:min(len(name), long)]
}

// NewClient returns a plain client of the given endpoints, closed when the test ends, like
// [Client].
func NewClient(tb testing.TB, endpoints []string, opts ...func(*clientv3.Config)) *clientv3.Client {
	tb.Helper()
	return newClient(tb, clientv3.Config{Endpoints: endpoints}, opts...)
}
