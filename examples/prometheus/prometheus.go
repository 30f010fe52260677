// Package prometheus shows the metrics of an etcdkit client to Prometheus. alerts.yaml has rules.
//
//	seconds, observer := prometheus.NewDurations()
//	client, err := etcdkit.Open(ctx, cfg, etcdkit.WithObserver(observer))
//	...
//	registry.MustRegister(seconds, prometheus.Collector{Client: client})
package prometheus

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcdkit/etcdkit"
)

// Collector collects the counters and gauges of a client, which costs no requests.
type Collector struct{ Client *etcdkit.Client }

// Describe sends nothing, because series come with the parts that the program opens.
func (Collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the current values.
func (c Collector) Collect(out chan<- prometheus.Metric) {
	for m := range c.Client.Metrics() {
		var names, values []string
		for _, label := range m.Labels {
			names, values = append(names, label[0]), append(values, label[1])
		}
		desc := prometheus.NewDesc(m.Name, m.Help, names, nil)
		if m.Kind == etcdkit.Counter {
			out <- prometheus.MustNewConstMetricWithCreatedTimestamp(desc, prometheus.CounterValue, m.Value, m.Start, values...)
		} else {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, m.Value, values...)
		}
	}
}

// NewDurations returns a histogram of operations, and the observer that fills it. It leaves out
// their targets: a program that has few locks may add a label for them.
func NewDurations() (*prometheus.HistogramVec, etcdkit.Observer) {
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "etcdkit_operation_duration_seconds", Help: "Duration of operations.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 12), //nolint:mnd // 1 ms to 24 s
	}, []string{"package", "name", "failed"})
	return seconds, etcdkit.Observer{
		Operation: func(_ context.Context, op etcdkit.Operation) (context.Context, func(etcdkit.OperationResult)) {
			start := time.Now()
			return nil, func(r etcdkit.OperationResult) {
				failed := strconv.FormatBool(r.Err != nil)
				seconds.WithLabelValues(op.Package, op.Name, failed).Observe(time.Since(start).Seconds())
			}
		},
	}
}
