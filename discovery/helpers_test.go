package discovery_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

// newProcess returns a registry with a client of its own, like another process.
func newProcess(tb testing.TB, dir string, o ...discovery.Option) (*discovery.Registry, *parttest.Parts) {
	tb.Helper()
	return newRegistry(tb, etcdtest.Client(tb, parttest.Harden), dir, o...)
}

// newRegistry returns a registry that uses cli. It is closed when the test ends.
func newRegistry(tb testing.TB, cli *clientv3.Client, dir string, o ...discovery.Option) (*discovery.Registry, *parttest.Parts) {
	tb.Helper()
	p := parttest.New(tb, cli, dir)
	r := etcdtest.Must(discovery.New(p, o...))
	tb.Cleanup(func() { _ = r.Close() })
	return r, p
}

// withTestTimeout returns a context that ends after parttest.Timeout.
func withTestTimeout(tb testing.TB) context.Context {
	tb.Helper()
	ctx, stop := context.WithTimeout(tb.Context(), parttest.Timeout)
	tb.Cleanup(stop)
	return ctx
}

// newInstance returns an instance of a service.
func newInstance(service, id string) discovery.Instance {
	return discovery.Instance{Service: service, ID: id, Host: "10.0.0.1", Port: 8080}
}

func register(tb testing.TB, r *discovery.Registry, i discovery.Instance, o ...discovery.RegisterOption) *discovery.Registration {
	tb.Helper()
	reg, err := r.Register(withTestTimeout(tb), i, o...)
	require.NoError(tb, err)
	return reg
}

func view(tb testing.TB, r *discovery.Registry, service string) *discovery.Service {
	tb.Helper()
	s, err := r.OpenService(withTestTimeout(tb), service)
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, s.Close()) })
	return s
}

// instanceIDs returns the IDs of instances.
func instanceIDs(list []discovery.Instance) []string {
	out := make([]string, 0, len(list))
	for _, i := range list {
		out = append(out, i.ID)
	}
	return out
}

// waitForInstances waits until a view shows the instances with these IDs.
func waitForInstances(tb testing.TB, s *discovery.Service, want ...string) {
	tb.Helper()
	require.Eventually(tb, func() bool { return assert.ObjectsAreEqual(append([]string{}, want...), instanceIDs(s.Instances())) },
		parttest.Timeout, time.Millisecond, "%s: want %v", s.Name(), want)
}

// keyLeases returns the keys of a service in etcd, with their leases.
func keyLeases(tb testing.TB, cli *clientv3.Client, prefix string) map[string]int64 {
	tb.Helper()
	resp, err := cli.Get(withTestTimeout(tb), prefix, clientv3.WithPrefix())
	require.NoError(tb, err)
	out := map[string]int64{}
	for _, kv := range resp.Kvs {
		out[string(kv.Key)] = kv.Lease
	}
	return out
}
