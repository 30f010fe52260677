package main

import (
	"bytes"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	etcdprom "github.com/etcdkit/etcdkit/examples/prometheus"
)

// metrics holds the gateway's own metrics and those of etcdkit.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

func newMetrics(s *service) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_http_requests_total", Help: "Answered requests.",
		}, []string{"route", "method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gateway_http_request_duration_seconds", Help: "Duration of requests.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route", "method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "gateway_http_requests_in_flight", Help: "Requests in progress.",
		}),
	}
	registrations := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "gateway_registrations", Help: "Instances that this gateway keeps registered.",
	}, func() float64 { return float64(s.registrations.count()) })
	m.registry.MustRegister(m.requests, m.seconds, m.inFlight, registrations, etcdprom.Collector{Client: s.client})
	return m
}

// count counts a request. Its labels have few values: route is a pattern, not a path.
func (m *metrics) count(route, method string, status int, took time.Duration) {
	method = knownMethod(method)
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route, method).Observe(took.Seconds())
}

// exposition serves GET /metrics, in the text format of Prometheus.
func (s *service) exposition(*request) (response, error) {
	families, err := s.metrics.registry.Gather()
	if err != nil {
		return response{}, err
	}
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	var b bytes.Buffer
	enc := expfmt.NewEncoder(&b, format)
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return response{}, err
		}
	}
	return response{status: http.StatusOK, bare: b.Bytes(), contentType: string(format)}, nil
}
