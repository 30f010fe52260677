package etcdkit_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func TestDiagnose_FindsNoProblemIfHealthy(t *testing.T) {
	t.Parallel()
	s, count := guarded(t), etcdtest.Counter(t)
	c := open(t, asApp(s), etcdkit.WithDialOptions(count.DialOption()))
	for _, k := range []string{"a", "b", "c/d"} {
		_, err := c.KV().Put(t.Context(), k, nil)
		require.NoError(t, err)
	}
	count.Reset()
	r := c.Diagnose(t.Context())
	assert.True(t, r.OK(), "%s", r)
	assert.EqualValues(t, 3, r.Keys)
	assert.Equal(t, "app", r.User)
	assert.Equal(t, "app/", r.Namespace)
	require.Len(t, r.Endpoints, 1)
	assert.Empty(t, r.Endpoints[0].Dial)
	assert.Empty(t, r.Endpoints[0].TLS)
	assert.Equal(t, etcdkit.Duration(5*time.Second), r.Settings.ReadTimeout)
	text := r.String()
	for _, part := range []string{"no problems", s.Endpoint(), "leader", r.Health.Members[0].Version, `namespace: "app/", keys: 3, user: app`, `"readTimeout": "5s"`} {
		assert.Contains(t, text, part)
	}
	for method := range count.Counts() {
		assert.Contains(t, []string{"KV/Range", "KV/Txn", "Maintenance/Status", "Cluster/MemberList"}, method)
	}
	below := c.Namespace("c").Diagnose(t.Context())
	assert.EqualValues(t, 1, below.Keys)
}

func TestDiagnose_DescribesTLS(t *testing.T) {
	t.Parallel()
	pki := etcdtest.Certs(t)
	s := etcdtest.Start(t, etcdtest.WithTLS(pki.TLS(pki.Server)))
	r := open(t, etcdkit.Config{Endpoints: s.Endpoints(), TLS: etcdkit.TLSConfig{CAFile: pki.CAFile}}).Diagnose(t.Context())
	require.Len(t, r.Endpoints, 1)
	e := r.Endpoints[0]
	assert.Equal(t, "TLS 1.3", e.TLS)
	assert.NotEmpty(t, e.Certificate)
	assert.WithinDuration(t, time.Now().Add(24*time.Hour), e.Expires, 2*time.Hour)
	require.Len(t, r.Problems, 1, "%s", r)
	assert.Contains(t, r.Problems[0], "has a certificate that expires at")
}

func TestDiagnose_DistinguishesProblems(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	refusing := freePort(t)
	cfg := asApp(s)
	cfg.Endpoints = append(cfg.Endpoints, refusing)
	r := open(t, cfg).Diagnose(t.Context())
	assert.False(t, r.OK())
	assert.Contains(t, r.String(), refusing+" cannot be reached: dial tcp")

	cfg = asApp(s)
	cfg.Password = etcdkit.NewSecret("wrong-" + planted)
	r = opened(t, cfg).Diagnose(t.Context())
	require.Len(t, r.Endpoints, 1)
	assert.Empty(t, r.Endpoints[0].Dial, "the connection is established")
	assert.Contains(t, r.Endpoints[0].Status, "authentication failed")
	assert.EqualValues(t, -1, r.Keys)

	cfg = asApp(s)
	cfg.Namespace = "not-mine"
	r = open(t, cfg).Diagnose(t.Context())
	require.Len(t, r.Problems, 1, "%s", r)
	assert.Contains(t, r.Problems[0], "the keys of the namespace cannot be counted: permission denied")

	r = opened(t, etcdkit.Config{Endpoints: []string{silent(t)}}).Diagnose(t.Context())
	assert.Contains(t, r.String(), "no quorum")
	assert.Less(t, r.Took, 6*time.Second)
}

func TestClient_RevealsNoSecrets(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	log := &etcdtest.Log{}
	for _, cfg := range []etcdkit.Config{asApp(s), {Endpoints: s.Endpoints(), Token: etcdkit.NewSecret(planted)}, {Endpoints: s.Endpoints(), Username: "nobody", Password: etcdkit.NewSecret(planted)}} {
		c := opened(t, cfg, etcdkit.WithLogger(log.Logger()))
		_, err := c.KV().Put(t.Context(), "k", []byte("value-"+planted))
		shown := []any{cfg, &cfg, c, *c, c.Raw(), err, c.Diagnose(t.Context()), c.Stats(), getReady(t, c.ReadyHandler()).Body.String()}
		h, herr := c.Health(t.Context())
		shown = append(shown, h, herr)
		for _, v := range shown {
			assertHides(t, fmt.Sprintf("%v %+v %#v", v, v, v))
			if out, err := json.Marshal(v); err == nil {
				assertHides(t, string(out))
			}
			log.Logger().Error("shown", "value", v)
		}
		assertHides(t, c.Diagnose(t.Context()).String())
	}
	assertHides(t, log.String())
	assert.NotEmpty(t, log.String())
}

func TestDiagnose_SilentEndpointsDoNotBlockOthers(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	cfg := etcdkit.Config{Endpoints: etcdtest.Endpoints(), Namespace: dir}
	for range 5 {
		cfg.Endpoints = append(cfg.Endpoints, silent(t))
	}
	r := open(t, cfg).Diagnose(t.Context())
	assert.True(t, r.Health.Quorum, "%s", r)
	assert.Zero(t, r.Keys)
	require.Len(t, r.Endpoints, 6)
	for _, e := range r.Endpoints[1:] {
		assert.NotEmpty(t, e.Dial)
	}
}

func TestDiagnose_EndsWithContext(t *testing.T) {
	t.Parallel()
	c := opened(t, etcdkit.Config{Endpoints: []string{silent(t)}})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	began := time.Now()
	assert.False(t, c.Diagnose(ctx).OK())
	assert.Less(t, time.Since(began), 3*time.Second)
}

func TestDiagnose_DoesNotReportNoQuorumForAMissingLogin(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	for name, cfg := range map[string]etcdkit.Config{
		"no user":        {Endpoints: s.Endpoints()},
		"wrong password": {Endpoints: s.Endpoints(), Username: "app", Password: etcdkit.NewSecret("wrong")},
	} {
		r := opened(t, cfg).Diagnose(t.Context())
		assert.False(t, r.OK(), name)
		assert.NotContains(t, r.String(), "no quorum", name)
		assert.Contains(t, r.String(), "quorum unknown, the login was rejected", name)
		assert.Contains(t, r.Problems[0], "unauthenticated", name)
	}
}
