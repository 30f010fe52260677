package etcdkit_test

import (
	"context"
	"errors"
	"math"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/discovery"
	testkit "github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/kv"
)

// recorder keeps the operations that have ended.
type recorder struct {
	mu  sync.Mutex
	all []recorded
}

type recorded struct {
	etcdkit.Operation
	etcdkit.OperationResult
}

func (r *recorder) observer() etcdkit.Observer {
	return etcdkit.Observer{Operation: func(_ context.Context, op etcdkit.Operation) (context.Context, func(etcdkit.OperationResult)) {
		return nil, func(res etcdkit.OperationResult) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.all = append(r.all, recorded{op, res})
		}
	}}
}

// take returns the operations of a package that have ended since the last call, and forgets all.
func (r *recorder) take(pkg string) (out []recorded) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range r.all {
		if one.Package == pkg {
			out = append(out, one)
		}
	}
	r.all = nil
	return out
}

func TestObserver_SeesEveryVerbOfTheStore(t *testing.T) {
	t.Parallel()
	var r recorder
	c := opened(t, testkit.Config(t), etcdkit.WithObserver(r.observer()))
	s, ctx := c.KV(), t.Context()
	rev, err := s.Put(ctx, "a", []byte("1"))
	require.NoError(t, err)
	assert.Equal(t, []recorded{{etcdkit.Operation{Package: "kv", Name: "put"}, etcdkit.OperationResult{Attempts: 1, Revision: rev}}}, r.take("kv"))
	_, err = s.Get(ctx, "absent")
	require.ErrorIs(t, err, kv.ErrNotFound)
	failed := r.take("kv")
	require.Len(t, failed, 1)
	assert.Equal(t, err, failed[0].Err)

	results, err := s.BatchEach(ctx, []kv.Op{kv.OpPut("b", nil)})
	require.NoError(t, err)
	var listed int64
	for _, err := range s.Keys(ctx, "", kv.WithReadRevision(&listed)) {
		require.NoError(t, err)
		break
	}
	got := r.take("kv")
	require.Len(t, got, 2)
	assert.Equal(t, results[0].Revision, got[0].Revision)
	assert.Equal(t, listed, got[1].Revision, "also of a loop that is left early")

	for name, call := range map[string]func() error{
		"create":             func() error { _, err := s.Create(ctx, "created", nil); return err },
		"replace":            func() error { _, err := s.Replace(ctx, "a", []byte("1"), rev); return err },
		"get":                func() error { _, err := s.Get(ctx, "b"); return err },
		"get stale":          func() error { _, err := s.GetStale(ctx, "b"); return err },
		"get as of":          func() error { _, err := s.GetAsOf(ctx, "b", rev); return err },
		"get many":           func() error { _, _, err := s.GetMany(ctx, "b"); return err },
		"exists":             func() error { _, err := s.Exists(ctx, "b"); return err },
		"count":              func() error { _, err := s.Count(ctx, ""); return err },
		"page":               func() error { _, err := s.Page(ctx, "", 1, ""); return err },
		"map":                func() error { _, err := s.Map(ctx, ""); return err },
		"touch":              func() error { _, err := s.Touch(ctx, "b", time.Minute); return err },
		"batch":              func() error { _, err := s.Batch(ctx, kv.OpPut("b", nil)); return err },
		"delete":             func() error { _, err := s.Delete(ctx, "b"); return err },
		"delete at":          func() error { _, err := s.DeleteAt(ctx, "b", 1); return err },
		"compare and swap":   func() error { _, err := s.CompareAndSwap(ctx, "b", nil, nil); return err },
		"compare and delete": func() error { _, err := s.CompareAndDelete(ctx, "b", nil); return err },
		"delete prefix":      func() error { _, _, err := s.DeletePrefix(ctx, "x/"); return err },
		"transact": func() error {
			_, err := s.Transact(ctx, func(_ context.Context, tx *kv.Tx) error { return tx.Put("b", nil) })
			return err
		},
		"update": func() error {
			_, err := s.Update(ctx, "b", func(kv.Entry[[]byte]) ([]byte, error) { return nil, nil }, kv.WithUpsert())
			return err
		},
		"list": func() (failure error) {
			for _, err := range s.List(ctx, "") {
				failure = err
			}
			return failure
		},
		"keys": func() (failure error) {
			for _, err := range s.Keys(ctx, "") {
				failure = err
				break
			}
			return failure
		},
	} {
		r.take("")
		err := call()
		got := r.take("kv")
		if assert.Len(t, got, 1, name) {
			assert.Equal(t, etcdkit.Operation{Package: "kv", Name: name}, got[0].Operation)
			assert.Equal(t, err, got[0].Err, name)
			assert.Positive(t, got[0].Attempts, name)
		}
	}
}

func TestObserver_SeesRegistrations(t *testing.T) {
	t.Parallel()
	var r recorder
	c := testkit.Open(t, etcdkit.WithObserver(r.observer()))
	registry := etcdtest.Must(discovery.New(c))
	_, err := registry.Register(t.Context(), discovery.Instance{Service: "orders", ID: "a", Host: "localhost", Port: 1})
	require.NoError(t, err)
	_, err = registry.Register(t.Context(), discovery.Instance{Service: "orders", ID: "a", Host: "localhost", Port: 1})
	require.ErrorIs(t, err, discovery.ErrTaken)
	got := r.take("discovery")
	require.Len(t, got, 2)
	for i, one := range got {
		assert.Equal(t, etcdkit.Operation{Package: "discovery", Name: "register", Target: "orders"}, one.Operation)
		assert.Equal(t, i == 1, errors.Is(one.Err, discovery.ErrTaken))
	}
	require.NoError(t, registry.Close())
}

// A hook that is not set costs no allocation: a client whose other hooks are set allocates as much
// as one without an observer.
func TestObserver_CostsNothingWhenUnset(t *testing.T) { //nolint:paralleltest // allocations of other tests would count
	dir := etcdtest.Prefix(t)
	least := [2]float64{math.Inf(1), math.Inf(1)}
	for i, obs := range []etcdkit.Observer{
		{},
		{LeaseLost: func(context.Context, error) {}, WatchResync: func(context.Context, string, int) {}},
	} {
		c := opened(t, etcdkit.Config{Endpoints: etcdtest.Endpoints(), Namespace: dir}, etcdkit.WithObserver(obs))
		put := func() {
			_, err := c.KV().Put(t.Context(), "k", nil)
			require.NoError(t, err)
		}
		put()
		for range 5 { // the least, because background work of the clients allocates as well
			least[i] = min(least[i], testing.AllocsPerRun(100, put))
		}
	}
	assert.InDelta(t, least[0], least[1], 1)
}

// values returns the metrics of a client by name and labels, and checks that none comes twice.
func values(t *testing.T, c *etcdkit.Client) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	for m := range c.Metrics() {
		var b strings.Builder
		b.WriteString(m.Name)
		for _, l := range m.Labels {
			b.WriteString("{" + l[0] + "=" + l[1] + "}")
		}
		id := b.String()
		assert.NotContains(t, out, id)
		out[id] = m.Value
		assert.Equal(t, m.Kind == etcdkit.Counter, !m.Start.IsZero(), id)
	}
	return out
}

func TestClient_MetricsHaveUniqueSeries(t *testing.T) {
	t.Parallel()
	c := testkit.Open(t)
	_, err := c.KV().Put(t.Context(), "users/ada", []byte("1"))
	require.NoError(t, err)
	open := func(dir string) *cache.Cache[int] {
		users, err := cache.Open(t.Context(), c, dir, kv.JSON[int]())
		require.NoError(t, err)
		for range 2 {
			_, err = users.Get(t.Context(), "ada")
			require.NoError(t, err)
		}
		return users
	}
	one, other := open("users"), open("users/")
	source, err := config.Open(t.Context(), c, "settings")
	require.NoError(t, err)
	registry := etcdtest.Must(discovery.New(c))
	for range 2 {
		_, err = registry.OpenService(t.Context(), "orders")
		require.NoError(t, err)
	}
	h, err := c.Namespace("sub").Locks().Mutex("m").Lock(t.Context())
	require.NoError(t, err)

	got := values(t, c)
	assert.Equal(t, 2.0, got["etcdkit_cache_hits_total{dir=users/}"])
	assert.Equal(t, 2.0, got["etcdkit_cache_entries{dir=users/}"])
	assert.Less(t, got["etcdkit_cache_age_seconds{dir=users/}"], 60.0)
	assert.Equal(t, 1.0, got["etcdkit_config_live{dir=settings/}"])
	assert.Equal(t, 1.0, got["etcdkit_discovery_live{service=orders}"], "views of a name share a watch")
	assert.Equal(t, 2.0, got["etcdkit_discovery_users{service=orders}"])
	assert.Equal(t, 1.0, got["etcdkit_lock_held"])
	assert.Equal(t, 1.0, got["etcdkit_lock_acquired_total"])
	assert.Equal(t, 1.0, got["etcdkit_lease_sessions"])
	assert.Equal(t, 1.0, got["etcdkit_client_endpoints"])
	assert.Positive(t, got["etcdkit_kv_calls_total"])
	assert.Positive(t, got["etcdkit_watch_active"])

	listed, named := map[string]bool{}, map[string]bool{}
	text, err := os.ReadFile("docs/operations.md")
	require.NoError(t, err)
	for _, row := range regexp.MustCompile("(?m)^\\| `(etcdkit_\\w+)` ").FindAllStringSubmatch(string(text), -1) {
		assert.False(t, listed[row[1]], "%s is listed twice", row[1])
		listed[row[1]] = true
	}
	for m := range c.Metrics() {
		named[m.Name] = true
	}
	assert.Equal(t, named, listed, "docs/operations.md lists every metric")

	require.NoError(t, errors.Join(one.Close(), other.Close(), source.Close(), registry.Close(), h.Release(t.Context())))
	got = values(t, c.Namespace("sub"))
	assert.Equal(t, 2.0, got["etcdkit_cache_hits_total{dir=users/}"])
	assert.NotContains(t, got, "etcdkit_cache_entries{dir=users/}")
	assert.NotContains(t, got, "etcdkit_discovery_live{service=orders}")
	assert.Positive(t, got["etcdkit_discovery_updates_total{service=orders}"])
	assert.Zero(t, got["etcdkit_lock_held"])
	require.NoError(t, c.Close())
	got = values(t, c)
	assert.Equal(t, 1.0, got["etcdkit_lock_acquired_total"])
	assert.Equal(t, 0.0, got["etcdkit_lease_sessions"])
	assert.Positive(t, got["etcdkit_kv_calls_total"])
}

func TestMetricKind_String(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "counter", etcdkit.Counter.String())
	assert.Equal(t, "gauge", etcdkit.Gauge.String())
	assert.Equal(t, "MetricKind(7)", etcdkit.MetricKind(7).String())
}

func TestMetrics_HaveEveryNumberOfStats(t *testing.T) {
	t.Parallel()
	scopetest.Complete(t, etcdkit.MetricsTable)
}
