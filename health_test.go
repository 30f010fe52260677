package etcdkit_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func TestHealth_DescribesHealthyServer(t *testing.T) {
	t.Parallel()
	s, count := etcdtest.Start(t), etcdtest.Counter(t)
	c := open(t, etcdkit.Config{Endpoints: s.Endpoints()}, etcdkit.WithDialOptions(count.DialOption()))
	rev, err := c.KV().Put(t.Context(), "k", nil)
	require.NoError(t, err)
	count.Reset()
	h, err := c.Health(t.Context())
	require.NoError(t, err)
	assert.True(t, h.Quorum)
	assert.Positive(t, h.Latency)
	assert.NotZero(t, h.ClusterID)
	assert.Equal(t, rev, h.Revision)
	assert.Empty(t, h.Alarms)
	require.Len(t, h.Members, 1)
	m := h.Members[0]
	assert.Equal(t, h.Leader, m.ID)
	assert.True(t, m.Leader)
	assert.True(t, m.Reachable)
	assert.Empty(t, m.Err)
	assert.Equal(t, s.Endpoint(), m.Endpoint)
	assert.Equal(t, s.Endpoints(), m.ClientURLs)
	assert.Equal(t, "m1", m.Name)
	told, err := s.Client(t).Status(t.Context(), s.Endpoint())
	require.NoError(t, err)
	assert.Equal(t, told.Version, m.Version)
	assert.Zero(t, m.RaftLag)
	assert.Positive(t, m.RaftIndex)
	assert.Positive(t, m.DBSize)
	assert.Positive(t, m.DBSizeInUse)
	assert.Positive(t, m.Latency)
	for method := range count.Counts() {
		assert.Contains(t, []string{"KV/Range", "Maintenance/Status", "Cluster/MemberList"}, method, "Health only reads")
	}
	members, err := c.Members(t.Context())
	require.NoError(t, err)
	require.Len(t, members, 1)
	assert.Equal(t, m.ID, members[0].ID)
}

func TestHealth_ReportsLossAndReturnOfQuorum(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.StartCluster(t, 3)
	c := open(t, etcdkit.Config{Endpoints: cluster.Endpoints()})
	cluster.Members[0].Kill()
	cluster.Members[1].Kill()
	began := time.Now()
	h, err := c.Health(t.Context())
	require.ErrorIs(t, err, etcdkit.ErrUnavailable)
	assert.Less(t, time.Since(began), 5*time.Second)
	assert.ErrorContains(t, err, "no quorum: 1 of 3 members answer")
	assert.False(t, h.Quorum)
	require.Len(t, h.Members, 3)
	reachable := 0
	for _, m := range h.Members {
		if m.Reachable {
			reachable++
			continue
		}
		assert.NotEmpty(t, m.Err)
		assert.Contains(t, cluster.Endpoints(), m.Endpoint)
		assert.NotEmpty(t, m.Name, "the remaining member lists the others")
	}
	assert.Equal(t, 1, reachable)
	ready := getReady(t, c.ReadyHandler())
	assert.Equal(t, http.StatusServiceUnavailable, ready.Code)
	assert.JSONEq(t, `{"ready":false,"reason":"etcd unavailable"}`, ready.Body.String())
	members, err := c.Members(t.Context())
	require.NoError(t, err, "the list requires no quorum")
	assert.Len(t, members, 3)

	cluster.Members[0].Launch()
	cluster.Members[0].WaitReady()
	h, err = c.Health(t.Context())
	require.NoError(t, err)
	assert.True(t, h.Quorum)
}

func TestHealth_DescribesUnreachableServer(t *testing.T) {
	t.Parallel()
	ep := freePort(t)
	c := opened(t, etcdkit.Config{Endpoints: []string{ep}})
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	h, err := c.Health(ctx)
	require.ErrorIs(t, err, etcdkit.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "no member answers")
	require.Len(t, h.Members, 1)
	assert.Equal(t, ep, h.Members[0].Endpoint)
	assert.Contains(t, h.Members[0].Err, "connection refused")
	_, err = c.Members(t.Context())
	require.ErrorIs(t, err, etcdkit.ErrUnavailable)
	assert.ErrorContains(t, err, ep+": dial tcp")
}

func TestHealth_ExplainsUnavailability(t *testing.T) {
	t.Parallel()
	well := func(id uint64) etcdkit.Member {
		return etcdkit.Member{ID: id, Endpoint: "e", Reachable: true}
	}
	failed := func(id uint64) etcdkit.Member { return etcdkit.Member{ID: id, Endpoint: "e"} }
	unasked := func(id uint64) etcdkit.Member { return etcdkit.Member{ID: id} }
	learner := etcdkit.Member{ID: 9, Learner: true, Endpoint: "e"}
	reason := errors.New("too slow")
	for _, tt := range []struct {
		name    string
		leader  uint64
		members []etcdkit.Member
		want    string
	}{
		{"one endpoint of three", 1, []etcdkit.Member{well(1), unasked(2), unasked(3)}, "too slow"},
		{"two endpoints of three, one failed", 1, []etcdkit.Member{well(1), failed(2), unasked(3)}, "too slow"},
		{"an endpoint that is not advertised failed", 1, []etcdkit.Member{well(1), well(2), unasked(3), failed(0)}, "too slow"},
		{"two that are not advertised failed", 1, []etcdkit.Member{well(1), unasked(2), unasked(3), failed(0), failed(0)}, "no quorum: 1 of 3 members answer: too slow"},
		{"two of three failed", 1, []etcdkit.Member{well(1), failed(2), failed(3)}, "no quorum: 1 of 3 members answer: too slow"},
		{"two ways to one member that failed", 1, []etcdkit.Member{well(1), well(2), failed(3), failed(0)}, "too slow"},
		{"a learner failed", 1, []etcdkit.Member{well(1), learner}, "too slow"},
		{"one of two failed", 1, []etcdkit.Member{well(1), failed(2)}, "no quorum: 1 of 2 members answer: too slow"},
		{"none answers", 0, []etcdkit.Member{failed(0), failed(0)}, "no member answers: too slow"},
		{"no leader", 0, []etcdkit.Member{well(1), unasked(2), unasked(3)}, "no leader known to the 1 members that answer: too slow"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := etcdkit.ExplainHealth(etcdkit.Health{Leader: tt.leader, Members: tt.members}, reason)
			require.ErrorIs(t, err, reason)
			assert.Equal(t, tt.want, err.Error())
		})
	}
}

func TestHealth_SucceedsWithOneEndpointOfThree(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.StartCluster(t, 3)
	c := open(t, etcdkit.Config{Endpoints: cluster.Members[0].Proxy(t).Endpoints()})
	h, err := c.Health(t.Context())
	require.NoError(t, err)
	require.Len(t, h.Members, 3)
	r := c.Diagnose(t.Context())
	assert.True(t, r.OK(), "%s", r)
	assert.Contains(t, r.String(), "no endpoint of the client reaches it", "the report contains it")
}

func TestMembers_ReturnsErrUnauthenticated(t *testing.T) {
	t.Parallel()
	cfg := asApp(guarded(t))
	cfg.Password = etcdkit.NewSecret("wrong-" + planted)
	_, err := opened(t, cfg).Members(t.Context())
	require.ErrorIs(t, err, etcdkit.ErrUnauthenticated)
	require.NotErrorIs(t, err, etcdkit.ErrUnavailable)
	one, ok := errors.AsType[*etcdkit.EndpointError](err)
	require.True(t, ok)
	assert.Equal(t, cfg.Endpoints[0], one.Endpoint)
	assertHides(t, err.Error())
}

func TestHealth_SucceedsWithoutPermission(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	cfg := asApp(s)
	cfg.Namespace = "not-mine"
	c := open(t, cfg)
	h, err := c.Health(t.Context())
	require.NoError(t, err)
	assert.True(t, h.Quorum)
	require.Len(t, h.Members, 1)
	assert.Equal(t, "m1", h.Members[0].Name)
}

func TestHealth_ReportsAlarms(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.WithFlags("--quota-backend-bytes=100000"))
	c := open(t, etcdkit.Config{Endpoints: s.Endpoints()})
	big := make([]byte, 32<<10)
	require.Eventually(t, func() bool {
		_, err := c.KV().Put(t.Context(), "k", big)
		return err != nil
	}, 20*time.Second, time.Millisecond)
	h, err := c.Health(t.Context())
	require.NoError(t, err, "a full database is readable")
	require.Len(t, h.Alarms, 1)
	assert.Contains(t, h.Alarms[0], "NOSPACE")
	r := c.Diagnose(t.Context())
	assert.False(t, r.OK())
	assert.Contains(t, r.String(), "NOSPACE")
}

func TestHealth_RoundTripsJSON(t *testing.T) {
	t.Parallel()
	c := open(t, etcdkit.Config{Endpoints: etcdtest.Endpoints()})
	h, err := c.Health(t.Context())
	require.NoError(t, err)
	out, err := json.Marshal(h)
	require.NoError(t, err)
	var back etcdkit.Health
	require.NoError(t, json.Unmarshal(out, &back))
	assert.Equal(t, h, back)
}

// getReady requests a readiness probe.
func getReady(t *testing.T, h http.Handler) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/ready", http.NoBody))
	return w
}

func TestClient_ReadyHandlerRespondsWith200(t *testing.T) {
	t.Parallel()
	c := open(t, etcdkit.Config{Endpoints: etcdtest.Endpoints()})
	w := getReady(t, c.ReadyHandler())
	assert.Equal(t, http.StatusOK, w.Code)
	assert.JSONEq(t, `{"ready":true}`, w.Body.String())
	assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
}

func TestClient_ReadyHandlerRespondsWith503AfterClose(t *testing.T) {
	t.Parallel()
	c, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: etcdtest.Endpoints()})
	require.NoError(t, err)
	h := c.ReadyHandler()
	require.Equal(t, http.StatusOK, getReady(t, h).Code)
	require.NoError(t, c.Close())
	w := getReady(t, h)
	assert.Equal(t, http.StatusServiceUnavailable, w.Code)
	assert.JSONEq(t, `{"ready":false,"reason":"closed"}`, w.Body.String())
}

func TestClient_LogsOutageOfSingleEndpoint(t *testing.T) {
	t.Parallel()
	proxy := etcdtest.Start(t).Proxy(t)
	log := &etcdtest.Log{}
	open(t, etcdkit.Config{Endpoints: proxy.Endpoints()}, etcdkit.WithLogger(log.Logger()))
	proxy.Refuse()
	proxy.Cut()
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "no etcd endpoint answers") }, 30*time.Second, time.Millisecond)
	proxy.Accept()
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "etcd endpoints answer again") }, 30*time.Second, time.Millisecond)
	assert.Equal(t, 1, log.Count("no etcd endpoint answers"))
}
