// Package parttest makes the parts of a client for tests of packages that cannot import the root
// package.
package parttest

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

// Parts has the methods of *etcdkit.Client that the other packages use.
type Parts struct {
	Raw *clientv3.Client
	Dir string

	store   *kv.Store
	watcher *watch.Watcher
	leases  *lease.Manager
}

// Of returns the parts of cli below dir. The caller must close them before cli.
func Of(cli *clientv3.Client, dir string) *Parts {
	w := etcdtest.Must(watch.New(cli, watch.WithNamespace(dir)))
	return &Parts{
		Raw: cli, Dir: dir, watcher: w,
		store:  etcdtest.Must(kv.New(cli, kv.WithNamespace(dir))),
		leases: etcdtest.Must(lease.New(cli, lease.WithNamespace(dir), lease.WithWatcher(w))),
	}
}

// New returns the parts of cli below dir, which are closed when the test ends.
func New(tb testing.TB, cli *clientv3.Client, dir string) *Parts {
	tb.Helper()
	p := Of(cli, dir)
	tb.Cleanup(func() {
		_ = p.leases.Close() // fails if the server is down
		assert.NoError(tb, p.watcher.Close())
	})
	return p
}

// Shared returns the parts of a client of the shared server, in a namespace of the test.
func Shared(tb testing.TB) *Parts {
	tb.Helper()
	return New(tb, etcdtest.Client(tb), etcdtest.Prefix(tb))
}

// KV returns the store.
func (p *Parts) KV() *kv.Store { return p.store }

// Watcher returns the watcher.
func (p *Parts) Watcher() *watch.Watcher { return p.watcher }

// Leases returns the lease manager.
func (p *Parts) Leases() *lease.Manager { return p.leases }

// WithWatcher returns a copy of p with another watcher, for tests in which reads and watches take
// different connections.
func (p *Parts) WithWatcher(w *watch.Watcher) *Parts {
	c := *p
	c.watcher = w
	return &c
}

// WithStore returns a copy of p with another store, for tests of what parts report to its observer.
func (p *Parts) WithStore(s *kv.Store) *Parts {
	c := *p
	c.store = s
	return &c
}

// WithLeases returns a copy of p with another lease manager.
func (p *Parts) WithLeases(m *lease.Manager) *Parts {
	c := *p
	c.leases = m
	return &c
}

// Close closes the lease manager and the watcher.
func (p *Parts) Close() error { return errors.Join(p.leases.Close(), p.watcher.Close()) }

// Harden prepares the configuration of a client as the root package does.
func Harden(cfg *clientv3.Config) {
	if err := wire.Harden(cfg); err != nil {
		panic(err)
	}
}

// Timeout bounds what a test waits for. Nothing takes that long unless it is broken.
const Timeout = 30 * time.Second

// Eventually waits until f returns true. Use it if there is no event to wait for.
func Eventually(tb testing.TB, f func() bool, msgAndArgs ...any) {
	tb.Helper()
	require.Eventually(tb, f, Timeout, 2*time.Millisecond, msgAndArgs...)
}
