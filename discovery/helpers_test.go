package discovery_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

// within bounds what a test waits for. Nothing takes that long unless it is broken.
const within = 30 * time.Second

// parts are a client's, as the root package makes them.
type parts struct {
	cli     *clientv3.Client
	dir     string
	store   *kv.Store
	watcher *watch.Watcher
	leases  *lease.Manager
}

func (p *parts) KV() *kv.Store           { return p.store }
func (p *parts) Watcher() *watch.Watcher { return p.watcher }
func (p *parts) Leases() *lease.Manager  { return p.leases }

// newParts makes the parts of a client below dir, closed when the test ends.
func newParts(tb testing.TB, cli *clientv3.Client, dir string) *parts {
	tb.Helper()
	w := etcdtest.Must(watch.New(cli, watch.WithNamespace(dir)))
	p := &parts{
		cli: cli, dir: dir, store: etcdtest.Must(kv.New(cli, kv.WithNamespace(dir))), watcher: w,
		leases: etcdtest.Must(lease.New(cli, lease.WithNamespace(dir), lease.WithWatcher(w))),
	}
	tb.Cleanup(func() {
		_ = p.leases.Close() // where a server is away it says so
		assert.NoError(tb, w.Close())
	})
	return p
}

// harden makes a client as etcdkit opens it.
func harden(cfg *clientv3.Config) {
	if err := wire.Harden(cfg); err != nil {
		panic(err)
	}
}

// process is a registry over a client of its own, as another process has it, below dir.
func process(tb testing.TB, dir string, o ...discovery.Option) (*discovery.Registry, *parts) {
	tb.Helper()
	return isDone(tb, etcdtest.Client(tb, harden), dir, o...)
}

// isDone is a registry over a client, closed when the test ends.
func isDone(tb testing.TB, cli *clientv3.Client, dir string, o ...discovery.Option) (*discovery.Registry, *parts) {
	tb.Helper()
	p := newParts(tb, cli, dir)
	r := etcdtest.Must(discovery.New(p, o...))
	tb.Cleanup(func() { _ = r.Close() })
	return r, p
}

// timely is a context that ends when the test has failed.
func timely(tb testing.TB) context.Context {
	tb.Helper()
	ctx, stop := context.WithTimeout(tb.Context(), within)
	tb.Cleanup(stop)
	return ctx
}

// some is an instance of a service.
func some(service, id string) discovery.Instance {
	return discovery.Instance{Service: service, ID: id, Host: "10.0.0.1", Port: 8080}
}

func register(tb testing.TB, r *discovery.Registry, i discovery.Instance, o ...discovery.RegisterOption) *discovery.Registration {
	tb.Helper()
	reg, err := r.Register(timely(tb), i, o...)
	require.NoError(tb, err)
	return reg
}

func view(tb testing.TB, r *discovery.Registry, service string) *discovery.Service {
	tb.Helper()
	s, err := r.OpenService(timely(tb), service)
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, s.Close()) })
	return s
}

// ids are those of instances.
func ids(list []discovery.Instance) []string {
	out := make([]string, 0, len(list))
	for _, i := range list {
		out = append(out, i.ID)
	}
	return out
}

// shows waits until a view shows the instances with these IDs.
func shows(tb testing.TB, s *discovery.Service, want ...string) {
	tb.Helper()
	require.Eventually(tb, func() bool { return assert.ObjectsAreEqual(append([]string{}, want...), ids(s.Instances())) },
		within, time.Millisecond, "%s: want %v", s.Name(), want)
}

// eventually waits until f holds.
func eventually(tb testing.TB, f func() bool, why ...any) {
	tb.Helper()
	require.Eventually(tb, f, within, 2*time.Millisecond, why...)
}

// keys are the keys of a service and their leases, as etcd has them.
func keys(tb testing.TB, cli *clientv3.Client, prefix string) map[string]int64 {
	tb.Helper()
	resp, err := cli.Get(timely(tb), prefix, clientv3.WithPrefix())
	require.NoError(tb, err)
	out := map[string]int64{}
	for _, kv := range resp.Kvs {
		out[string(kv.Key)] = kv.Lease
	}
	return out
}

// journal keeps what it is told.
type journal[E any] struct {
	mu   sync.Mutex
	list []E
}

func (l *journal[E]) add(e E) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
}

func (l *journal[E]) all() []E {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]E(nil), l.list...)
}
