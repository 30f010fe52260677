package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/lock"
)

// stats holds the counters of etcdkit.
type stats struct {
	Client   etcdkit.Stats
	Locks    lock.Stats
	Cache    cache.Stats
	CacheAge time.Duration
	Services map[string]discovery.Stats

	Registrations int
}

// stats reads all counters. It sends nothing to etcd.
func (s *service) stats() stats {
	out := stats{
		Client: s.client.Stats(), Locks: s.client.Locks().Stats(), Services: s.views.stats(),
		Registrations: s.registrations.count(),
	}
	if s.cached != nil {
		out.Cache, out.CacheAge = s.cached.Stats(), s.cached.Age()
	}
	return out
}

// collector is a Prometheus collector of the counters of etcdkit.
type collector struct{ read func() stats }

// prefix is the common prefix of the metrics of etcdkit.
const prefix = "etcdkit_"

// Describe sends nothing: the series depend on the services that are watched.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads all counters.
func (c collector) Collect(out chan<- prometheus.Metric) {
	now := c.read()
	for _, one := range allSeries() {
		desc := prometheus.NewDesc(prefix+one.name, one.help, nil, nil)
		out <- prometheus.MustNewConstMetric(desc, one.kind, one.value(&now))
	}
	for service, st := range now.Services {
		for _, one := range seriesOfService() {
			desc := prometheus.NewDesc(prefix+one.name, one.help, []string{"service"}, nil)
			out <- prometheus.MustNewConstMetric(desc, one.kind, one.value(&st), service)
		}
	}
}
