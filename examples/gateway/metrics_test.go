package main

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/discovery"
)

func parse(t *testing.T, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	require.NoError(t, err)
	return families
}

// valueOfSeries is what a series shows.
func valueOfSeries(m *dto.Metric) float64 {
	if m.Counter != nil {
		return m.Counter.GetValue()
	}
	return m.Gauge.GetValue()
}

// number fills every number below v with another one, and returns them.
func number(v reflect.Value, next *float64, into map[float64]string, path string) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			number(v.Field(i), next, into, path+"."+v.Type().Field(i).Name)
		}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		*next++
		n := *next
		switch {
		case v.Type() == reflect.TypeFor[time.Duration]():
			v.SetInt(int64(n) * int64(time.Second))
		case v.CanInt():
			v.SetInt(int64(n))
		default:
			v.SetUint(uint64(n))
		}
		into[n] = path
	case reflect.Bool:
		v.SetBool(true)
		into[1] = path
	case reflect.Slice:
		*next++
		v.Set(reflect.MakeSlice(v.Type(), int(*next), int(*next)))
		into[*next] = path
	case reflect.Map: // the services, which are filled by themselves
	default:
		panic("a kind of field that is not known here: " + path)
	}
}

func TestMetrics_HaveEveryNumberOfEveryStats(t *testing.T) {
	t.Parallel()
	var s stats
	var service discovery.Stats
	next, want := 100.0, map[float64]string{}
	number(reflect.ValueOf(&s).Elem(), &next, want, "stats")
	number(reflect.ValueOf(&service).Elem(), &next, want, "discovery")
	s.Services = map[string]discovery.Stats{"orders": service}

	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(collector{read: func() stats { return s }}))
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		require.Len(t, f.GetMetric(), 1, f.GetName())
		shown := valueOfSeries(f.GetMetric()[0])
		assert.Contains(t, want, shown, "%s shows something else", f.GetName())
		delete(want, shown)
		assert.Equal(t, strings.HasSuffix(f.GetName(), "_total"), f.GetType() == dto.MetricType_COUNTER, f.GetName())
		assert.NotEmpty(t, f.GetHelp())
	}
	assert.Empty(t, want, "is shown by no metric")
}

// requestsSeen is the counters of requests, by their labels.
func requestsSeen(families map[string]*dto.MetricFamily) map[string]float64 {
	seen := map[string]float64{}
	for _, m := range families["gateway_http_requests_total"].GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetValue())
		}
		seen[strings.Join(labels, " ")] = m.GetCounter().GetValue()
	}
	return seen
}

func TestMetrics_AreWellFormed(t *testing.T) {
	t.Parallel()
	g := start(t)
	g.serves()
	require.Equal(t, 201, g.do("POST", orders+"/a", instanceOK).status)
	g.instances("orders")
	g.do("GET", kvPath+"k?cached=true", "")
	g.do("GET", kvPath+"k?cached=true", "")
	for i := range 50 { // neither paths nor methods of one's own make series
		g.do("GET", fmt.Sprint("/", i), "")
		g.do(fmt.Sprint("M", i), kvPath+"a", "")
		g.raw(fmt.Sprint("GET //", i, " HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	}
	var families map[string]*dto.MetricFamily
	var seen map[string]float64
	eventually(t, func() bool { // a request is counted when it was answered
		r := g.do("GET", "/metrics", "")
		require.Equal(t, 200, r.status)
		assert.True(t, strings.HasPrefix(r.header.Get("Content-Type"), "text/plain; version=0.0.4"), r.header.Get("Content-Type"))
		families = parse(t, r.body)
		seen = requestsSeen(families)
		return seen["400 GET "] == 50
	}, "all requests are counted")
	value := func(name string) float64 {
		require.Contains(t, families, name)
		return valueOfSeries(families[name].GetMetric()[0])
	}
	assert.Positive(t, value("etcdkit_kv_calls_total"))
	assert.Equal(t, 1.0, value("etcdkit_cache_hits_total"))
	assert.Equal(t, 1.0, value("etcdkit_gateway_registrations"))
	assert.Equal(t, 1.0, value("etcdkit_client_endpoints"))
	assert.Equal(t, 1.0, value("etcdkit_discovery_live"))
	assert.Positive(t, value("gateway_http_requests_in_flight"), "this one at least")
	assert.Less(t, len(seen), 20)
	assert.Equal(t, 50.0, seen["405 OTHER /api/etcd/kv/{key}"])
	assert.Equal(t, 50.0, seen["404 GET "])
	assert.Equal(t, 2.0, seen["404 GET /api/etcd/kv/{key}"])
	assert.Contains(t, families, "gateway_http_request_duration_seconds")

	description := g.do("GET", "/openapi.yaml", "")
	assert.Equal(t, openapi, description.body)
}

func TestMetrics_OmitServicesWithoutInstances(t *testing.T) {
	t.Parallel()
	g := start(t)
	services := func() (out []string) {
		for _, m := range parse(t, g.do("GET", "/metrics", "").body)["etcdkit_discovery_instances"].GetMetric() {
			out = append(out, m.GetLabel()[0].GetValue())
		}
		return out
	}
	require.Equal(t, 201, g.do("POST", orders+"/a", instanceOK).status)
	for i := range 5 {
		g.instances(fmt.Sprint("made-up-", i))
	}
	require.Len(t, g.instances("orders"), 1)
	assert.Equal(t, []string{"orders"}, services())
	require.Equal(t, 200, g.do("DELETE", orders+"/a", "").status)
	eventually(t, func() bool { return len(g.instances("orders")) == 0 }, "taken back")
	assert.Equal(t, []string{"orders"}, services(), "that there are none left is told")
}
