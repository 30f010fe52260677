package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
	assert.Equal(t, 1.0, value("gateway_registrations"))
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

func TestMetrics_BoundSeriesOfServices(t *testing.T) {
	t.Parallel()
	g := start(t)
	require.Equal(t, 201, g.do("POST", orders+"/a", instanceOK).status)
	require.Len(t, g.instances("orders"), 1)
	for i := range 200 {
		g.instances(fmt.Sprint("made-up-", i))
	}
	families := parse(t, g.do("GET", "/metrics", "").body)
	assert.LessOrEqual(t, len(families["etcdkit_discovery_updates_total"].GetMetric()), 101)
	assert.LessOrEqual(t, len(families["etcdkit_discovery_instances"].GetMetric()), 101)
}
