package etcdkit_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func TestClient_SetEndpointsRemovesAnEvictedEndpoint(t *testing.T) {
	t.Parallel()
	s, dead := etcdtest.Start(t), "http://"+freePort(t)
	c := open(t, etcdkit.Config{Endpoints: []string{s.Endpoint(), dead}})
	require.Equal(t, []string{dead}, c.Stats().Evicted)
	require.NoError(t, c.SetEndpoints(s.Endpoint()))
	assert.Empty(t, c.Stats().Evicted)
	assert.Equal(t, []string{s.Endpoint()}, c.Stats().Endpoints)
	assert.Equal(t, []string{s.Endpoint()}, c.Raw().Endpoints())
	assert.True(t, c.Diagnose(t.Context()).OK())
	_, err := c.KV().Exists(t.Context(), "k")
	require.NoError(t, err)

	require.NoError(t, c.Namespace("below").SetEndpoints(dead, s.Endpoint()))
	require.Eventually(t, func() bool { return slices.Equal(c.Stats().Evicted, []string{dead}) }, 30*time.Second, time.Millisecond)
	other := "http://" + freePort(t)
	require.NoError(t, c.SetEndpoints(other, dead, s.Endpoint()))
	assert.Contains(t, c.Stats().Evicted, dead, "it has not answered again")
	assert.NotContains(t, c.Raw().Endpoints(), dead)
}

func TestClient_SetEndpointsRefusesWhatTheClientCannotUse(t *testing.T) {
	t.Parallel()
	c := opened(t, etcdkit.Config{Endpoints: etcdtest.Endpoints(), Username: "u", Password: etcdkit.NewSecret(planted)})
	for _, tt := range []struct {
		endpoints []string
		want      string
	}{
		{nil, "the list of endpoints is empty"},
		{[]string{"a:b:c"}, "is not host:port"},
		{[]string{"https://127.0.0.1:1"}, "requires TLS, but the client was opened without it"},
		{[]string{"http://10.0.0.1:1"}, "in clear text"},
	} {
		err := c.SetEndpoints(tt.endpoints...)
		require.ErrorIs(t, err, etcdkit.ErrInvalid, tt.want)
		require.ErrorContains(t, err, tt.want)
	}
	assert.Equal(t, etcdtest.Endpoints(), c.Stats().Endpoints)

	pki := etcdtest.Certs(t)
	secure := opened(t, etcdkit.Config{Endpoints: []string{"https://127.0.0.1:1"}, TLS: etcdkit.TLSConfig{CAFile: pki.CAFile}})
	require.ErrorContains(t, secure.SetEndpoints("http://127.0.0.1:1"), "has the scheme http, but TLS is configured")
	require.NoError(t, secure.SetEndpoints("https://127.0.0.1:2", "127.0.0.1:3"))

	wrapped, err := etcdkit.Wrap(etcdtest.Client(t))
	require.NoError(t, err)
	require.ErrorIs(t, wrapped.SetEndpoints("a:1"), etcdkit.ErrInvalid)
	require.NoError(t, wrapped.Close())

	closed, err := etcdkit.OpenLazy(etcdkit.Config{})
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	require.ErrorIs(t, closed.SetEndpoints("a:1"), etcdkit.ErrClosed)
}

func TestWithEndpointSync_ReplacesTheEndpointsByTheMembers(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.StartCluster(t, 3)
	first, dead := cluster.Endpoints()[0], "http://"+freePort(t)
	c := open(t, etcdkit.Config{Endpoints: []string{first, dead}}, etcdkit.WithEndpointSync(100*time.Millisecond))
	want := slices.Sorted(slices.Values(cluster.Endpoints()))
	require.Eventually(t, func() bool { return slices.Equal(want, slices.Sorted(slices.Values(c.Stats().Endpoints))) }, 30*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool { return len(c.Stats().Evicted) == 0 }, 30*time.Second, 10*time.Millisecond)
}

// A cluster may advertise URLs that this client cannot reach.
func TestWithEndpointSync_KeepsTheEndpointsIfNoMemberURLAnswers(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.WithFlags("--advertise-client-urls=http://"+freePort(t)))
	log := &etcdtest.Log{}
	var counted atomic.Int64
	c := open(t, etcdkit.Config{Endpoints: s.Endpoints()}, etcdkit.WithEndpointSync(50*time.Millisecond), etcdkit.WithLogger(log.Logger()), countMemberLists(&counted, nil))
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "etcd endpoints cannot be synchronized") }, 30*time.Second, time.Millisecond)
	assert.Equal(t, s.Endpoints(), c.Stats().Endpoints)
	before := counted.Load()
	require.Eventually(t, func() bool { return counted.Load() >= before+3 }, 30*time.Second, time.Millisecond, "several more rounds")
	assert.Equal(t, 1, log.Count("etcd endpoints cannot be synchronized"))
	assert.Equal(t, s.Endpoints(), c.Raw().Endpoints())
}

// countMemberLists counts the responses with a list of members. If change is not nil, it changes
// them.
func countMemberLists(n *atomic.Int64, change func(*pb.MemberListResponse)) etcdkit.Option {
	return etcdkit.WithDialOptions(grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoke(ctx, method, req, reply, cc, opts...)
			if list, ok := reply.(*pb.MemberListResponse); ok && err == nil {
				if change != nil {
					change(list)
				}
				n.Add(1)
			}
			return err
		}))
}

// An address may be reassigned to another cluster.
func TestWithEndpointSync_RefusesTheMembersOfAnotherCluster(t *testing.T) {
	t.Parallel()
	s, other := etcdtest.Start(t), etcdtest.Start(t)
	log := &etcdtest.Log{}
	var counted atomic.Int64
	var foreign atomic.Bool
	foreign.Store(true)
	c := open(t, etcdkit.Config{Endpoints: s.Endpoints()}, etcdkit.WithEndpointSync(50*time.Millisecond), etcdkit.WithLogger(log.Logger()),
		countMemberLists(&counted, func(list *pb.MemberListResponse) {
			list.Members[0].ClientURLs = other.Endpoints()
			if foreign.Load() {
				list.Header.ClusterId++
			}
		}))
	require.Eventually(t, func() bool { return counted.Load() >= 3 }, 30*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "that of another cluster") }, 30*time.Second, time.Millisecond)
	assert.Equal(t, 1, log.Count("etcd endpoints cannot be synchronized"))
	assert.Equal(t, s.Endpoints(), c.Stats().Endpoints)
	foreign.Store(false)
	require.Eventually(t, func() bool { return slices.Equal(other.Endpoints(), c.Stats().Endpoints) }, 30*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "etcd endpoints are synchronized again") }, 30*time.Second, time.Millisecond)
}

func TestWithEndpointSync_RefusesAnIntervalThatIsNotPositive(t *testing.T) {
	t.Parallel()
	_, err := etcdkit.OpenLazy(etcdkit.Config{}, etcdkit.WithEndpointSync(0))
	require.ErrorIs(t, err, etcdkit.ErrInvalid)
}
