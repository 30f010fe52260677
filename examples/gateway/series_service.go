package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/etcdkit/etcdkit/discovery"
)

// serviceSeries is a metric of one service, and where its value is.
type serviceSeries struct {
	name, help string
	kind       prometheus.ValueType
	value      func(s *discovery.Stats) float64
}

func serviceCount(name, help string, f func(s *discovery.Stats) uint64) serviceSeries {
	return serviceSeries{name, help, prometheus.CounterValue, func(s *discovery.Stats) float64 { return float64(f(s)) }}
}

func serviceGauge(name, help string, f func(s *discovery.Stats) int) serviceSeries {
	return serviceSeries{name, help, prometheus.GaugeValue, func(s *discovery.Stats) float64 { return float64(f(s)) }}
}

// seriesOfService is package discovery, for each service that is watched.
func seriesOfService() []serviceSeries {
	return []serviceSeries{
		serviceGauge("discovery_instances", "Instances that are shown.", func(s *discovery.Stats) int { return s.Instances }),
		serviceGauge("discovery_draining", "Instances that are about to leave.", func(s *discovery.Stats) int { return s.Draining }),
		serviceGauge("discovery_held", "Instances that are gone and held back.", func(s *discovery.Stats) int { return s.Held }),
		serviceGauge("discovery_malformed", "Entries that cannot be used.", func(s *discovery.Stats) int { return s.Malformed }),
		serviceCount("discovery_updates_total", "Changes that were taken in.", func(s *discovery.Stats) uint64 { return s.Updates }),
		serviceCount("discovery_bad_seen_total", "Values that could not be used.", func(s *discovery.Stats) uint64 { return s.BadSeen }),
		serviceCount("discovery_restarts_total", "Watches that were begun anew.", func(s *discovery.Stats) uint64 { return s.Restarts }),
		serviceGauge("discovery_users", "Views that share the watch.", func(s *discovery.Stats) int { return s.Users }),
		{"discovery_age_seconds", "For how long changes may have been missed.", prometheus.GaugeValue, func(s *discovery.Stats) float64 { return s.Age.Seconds() }},
		{"discovery_live", "1 while changes are told as they happen.", prometheus.GaugeValue, func(s *discovery.Stats) float64 { return oneIf(s.Live) }},
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
