package main

import (
	"bytes"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// metrics is what the gateway counts itself, together with what etcdkit has counted.
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
			Name: "gateway_http_requests_total", Help: "Requests that were answered.",
		}, []string{"route", "method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gateway_http_request_duration_seconds", Help: "How long requests took.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route", "method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "gateway_http_requests_in_flight", Help: "Requests that are being worked on.",
		}),
	}
	m.registry.MustRegister(m.requests, m.seconds, m.inFlight, collector{read: s.stats})
	return m
}

// count takes a request in. Its labels have few values: the route is a pattern, not a path.
func (m *metrics) count(route, verb string, status int, took time.Duration) {
	verb = method(verb)
	m.requests.WithLabelValues(route, verb, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route, verb).Observe(took.Seconds())
}

// exposition is GET /metrics, in the text format of Prometheus.
func (s *service) exposition(*request) (answer, error) {
	families, err := s.metrics.registry.Gather()
	if err != nil {
		return answer{}, err
	}
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	var b bytes.Buffer
	enc := expfmt.NewEncoder(&b, format)
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return answer{}, err
		}
	}
	return answer{status: http.StatusOK, bare: b.Bytes(), contentType: string(format)}, nil
}
