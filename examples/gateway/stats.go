package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/lock"
)

// stats is what etcdkit has counted, at one time.
type stats struct {
	Client   etcdkit.Stats
	Locks    lock.Stats
	Cache    cache.Stats
	CacheAge time.Duration
	Services map[string]discovery.Stats

	Registrations int
}

// stats reads all counters. It asks etcd for nothing.
func (s *service) stats() stats {
	out := stats{
		Client: s.client.Stats(), Locks: s.client.Locks().Stats(), Services: s.views.stats(), Registrations: s.registrations.count(),
	}
	if s.cached != nil {
		out.Cache, out.CacheAge = s.cached.Stats(), s.cached.Age()
	}
	return out
}

// collector gives the counters of etcdkit to Prometheus, whenever it asks for them.
type collector struct{ read func() stats }

// prefix is what the names of etcdkit's metrics begin with.
const prefix = "etcdkit_"

// Describe says nothing: what there is depends on the services that are watched.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads all counters.
func (c collector) Collect(out chan<- prometheus.Metric) {
	now := c.read()
	for _, one := range allSeries() {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(prefix+one.name, one.help, nil, nil), one.kind, one.value(&now))
	}
	for service, st := range now.Services {
		for _, one := range seriesOfService() {
			desc := prometheus.NewDesc(prefix+one.name, one.help, []string{"service"}, nil)
			out <- prometheus.MustNewConstMetric(desc, one.kind, one.value(&st), service)
		}
	}
}
