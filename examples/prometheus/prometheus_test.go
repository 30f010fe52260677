package prometheus_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	prom "github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/examples/prometheus"
	"github.com/etcdkit/etcdkit/kv"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

// gather opens every kind of part twice, over the same names, and returns what Prometheus sees.
func gather(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	seconds, observer := prometheus.NewDurations()
	client := etcdtest.Open(t, etcdkit.WithObserver(observer))
	registry := prom.NewPedanticRegistry() // refuses duplicate series, as a scrape does
	registry.MustRegister(seconds, prometheus.Collector{Client: client})
	for range 2 {
		users, err := cache.Open(t.Context(), client, "users", kv.Bytes())
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, users.Close()) })
		_, err = users.Get(t.Context(), "ada")
		require.ErrorIs(t, err, kv.ErrNotFound)
		settings, err := config.Open(t.Context(), client, "settings")
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, settings.Close()) })
		registered, err := discovery.New(client)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, registered.Close()) })
		_, err = registered.OpenService(t.Context(), "orders")
		require.NoError(t, err)
		held, err := client.Locks().Mutex("nightly").Lock(t.Context())
		require.NoError(t, err)
		require.NoError(t, held.Release(t.Context()))
	}
	families, err := registry.Gather()
	require.NoError(t, err)
	byName := map[string]*dto.MetricFamily{}
	for _, f := range families {
		byName[f.GetName()] = f
	}
	return byName
}

func TestCollector_ShowsEveryPartOnce(t *testing.T) {
	families := gather(t)
	misses := families["etcdkit_cache_misses_total"].GetMetric()
	require.NotEmpty(t, misses)
	for _, m := range misses {
		if m.GetLabel()[0].GetValue() == "users/" {
			assert.Equal(t, 2.0, m.GetCounter().GetValue(), "two caches over one dir are one series")
		}
		assert.Equal(t, "dir", m.GetLabel()[0].GetName())
		assert.NotNil(t, m.GetCounter().GetCreatedTimestamp())
	}
	assert.Equal(t, 2.0, families["etcdkit_lock_acquired_total"].GetMetric()[0].GetCounter().GetValue())
	assert.Equal(t, 0.0, families["etcdkit_lock_held"].GetMetric()[0].GetGauge().GetValue())

	waits := uint64(0)
	for _, m := range families["etcdkit_operation_duration_seconds"].GetMetric() {
		if strings.Contains(m.String(), `value:"lock"`) && strings.Contains(m.String(), `value:"wait"`) {
			waits += m.GetHistogram().GetSampleCount()
		}
		assert.NotContains(t, m.String(), "nightly", "a name is no label")
		assert.NotContains(t, m.String(), "ada")
	}
	assert.EqualValues(t, 2, waits)
}

// Each expression names series and labels that exist.
func TestAlerts_NameExistingSeries(t *testing.T) {
	text, err := os.ReadFile("alerts.yaml")
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	}
	require.NoError(t, yaml.UnmarshalStrict(text, &file))
	require.Len(t, file.Groups, 1)
	require.NotEmpty(t, file.Groups[0].Rules)
	families := gather(t)
	series, label := regexp.MustCompile(`etcdkit_\w+`), regexp.MustCompile(`\$labels\.(\w+)`)
	for _, rule := range file.Groups[0].Rules {
		names := series.FindAllString(rule.Expr, -1)
		require.NotEmpty(t, names, rule.Alert)
		assert.Contains(t, []string{"warning", "critical"}, rule.Labels["severity"], rule.Alert)
		assert.NotEmpty(t, rule.Annotations["summary"], rule.Alert)
		for _, name := range names {
			name, isHistogram := strings.CutSuffix(name, "_bucket")
			if !assert.Contains(t, families, name, rule.Alert) {
				continue
			}
			assert.Equal(t, isHistogram, families[name].GetType() == dto.MetricType_HISTOGRAM, rule.Alert)
			rates := strings.Contains(rule.Expr, "rate("+name) || strings.Contains(rule.Expr, "increase("+name)
			assert.Equal(t, families[name].GetType() != dto.MetricType_GAUGE, rates, "%s: %s", rule.Alert, name)
			for _, used := range label.FindAllStringSubmatch(rule.Annotations["summary"], -1) {
				if used[1] != "instance" { // of the scrape
					assert.Contains(t, families[name].GetMetric()[0].String(), `name:"`+used[1]+`"`, rule.Alert)
				}
			}
		}
	}
}
