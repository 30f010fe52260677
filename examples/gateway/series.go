package main

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// series is a metric, and where its value is.
type series struct {
	name, help string
	kind       prometheus.ValueType
	value      func(s *stats) float64
}

func count(name, help string, f func(s *stats) uint64) series {
	return series{name, help, prometheus.CounterValue, func(s *stats) float64 { return float64(f(s)) }}
}

func gauge(name, help string, f func(s *stats) int) series {
	return series{name, help, prometheus.GaugeValue, func(s *stats) float64 { return float64(f(s)) }}
}

func seconds(name, help string, f func(s *stats) time.Duration) series {
	return series{name, help, prometheus.GaugeValue, func(s *stats) float64 { return f(s).Seconds() }}
}

// allSeries is every number of every Stats, except those of services.
func allSeries() []series {
	return slices.Concat(ofClient(), ofStore(), ofLeases(), ofWatches(), ofLocks(), ofCache())
}

// ofClient is the connections, and what this gateway has registered.
func ofClient() []series {
	return []series{
		gauge("client_endpoints", "Endpoints of the client.", func(s *stats) int { return len(s.Client.Endpoints) }),
		gauge("client_endpoints_evicted", "Endpoints that are left out at present.", func(s *stats) int { return len(s.Client.Evicted) }),
		count("client_evictions_total", "Times that an endpoint was left out.", func(s *stats) uint64 { return s.Client.Evictions }),
		count("client_readmissions_total", "Times that an endpoint came back.", func(s *stats) uint64 { return s.Client.Readmissions }),
		count("client_logins_total", "Logins that were tried.", func(s *stats) uint64 { return s.Client.Logins }),
		count("client_login_failures_total", "Logins that failed.", func(s *stats) uint64 { return s.Client.LoginFailures }),
		gauge("gateway_registrations", "Instances that this gateway keeps registered.", func(s *stats) int { return s.Registrations }),
	}
}

// ofStore is package kv.
func ofStore() []series {
	return []series{
		count("kv_calls_total", "Calls of the store.", func(s *stats) uint64 { return s.Client.KV.Calls }),
		count("kv_retries_total", "Attempts of the store beyond the first of a call.", func(s *stats) uint64 { return s.Client.KV.Retries }),
		count("kv_unknown_outcomes_total", "Writes that may have been carried out, or not.", func(s *stats) uint64 { return s.Client.KV.Unknown }),
		count("kv_conflicts_total", "Rounds of an update that found the key changed.", func(s *stats) uint64 { return s.Client.KV.Conflicts }),
	}
}

// ofLeases is package lease.
func ofLeases() []series {
	return []series{
		gauge("lease_sessions", "Sessions that live.", func(s *stats) int { return s.Client.Leases.Sessions }),
		gauge("lease_sessions_suspended", "Sessions whose renewals fail at present.", func(s *stats) int { return s.Client.Leases.Suspended }),
		gauge("lease_keys", "Keys that are kept.", func(s *stats) int { return s.Client.Leases.Keys }),
		count("lease_renewals_total", "Renewals that were answered.", func(s *stats) uint64 { return s.Client.Leases.Renewals }),
		count("lease_stream_failures_total", "Renewal streams that failed.", func(s *stats) uint64 { return s.Client.Leases.Failures }),
		count("lease_streams_total", "Renewal streams that were opened, or tried to be.", func(s *stats) uint64 { return s.Client.Leases.Streams }),
		count("lease_sessions_lost_total", "Sessions that ended other than by being closed.", func(s *stats) uint64 { return s.Client.Leases.Lost }),
		count("lease_retries_total", "Attempts beyond the first of a call about leases.", func(s *stats) uint64 { return s.Client.Leases.Retries }),
	}
}

// ofWatches is package watch.
func ofWatches() []series {
	return []series{
		gauge("watch_active", "Watches and subscriptions that run.", func(s *stats) int { return s.Client.Watches.Active }),
		gauge("watch_server_watches", "Server-side watches that they share.", func(s *stats) int { return s.Client.Watches.ServerWatches }),
		gauge("watch_streams", "Streams that carry them.", func(s *stats) int { return s.Client.Watches.Streams }),
		count("watch_batches_total", "Batches that were delivered.", func(s *stats) uint64 { return s.Client.Watches.Batches }),
		count("watch_events_total", "Events that were delivered.", func(s *stats) uint64 { return s.Client.Watches.Events }),
		count("watch_folded_total", "Changes that were left out for slow consumers.", func(s *stats) uint64 { return s.Client.Watches.Folded }),
		count("watch_reconnects_total", "Streams that ended and were opened again.", func(s *stats) uint64 { return s.Client.Watches.Reconnects }),
		count("watch_resyncs_total", "Lists that brought a watch up to date.", func(s *stats) uint64 { return s.Client.Watches.Resyncs }),
		count("watch_replays_total", "Histories that were read for a single watch.", func(s *stats) uint64 { return s.Client.Watches.Replays }),
		count("watch_overflows_total", "Watches that lagged too far and lost their place.", func(s *stats) uint64 { return s.Client.Watches.Overflows }),
	}
}

// ofLocks is package lock.
func ofLocks() []series {
	return []series{
		gauge("lock_held", "Locks that are held.", func(s *stats) int { return s.Locks.Held }),
		gauge("lock_waiting", "Calls that wait for a lock.", func(s *stats) int { return s.Locks.Waiting }),
		gauge("lock_names", "Names of locks that are in use.", func(s *stats) int { return s.Locks.Names }),
		gauge("lock_watched", "Names of locks that are watched.", func(s *stats) int { return s.Locks.Watched }),
		count("lock_acquired_total", "Locks that were granted.", func(s *stats) uint64 { return s.Locks.Acquired }),
		count("lock_turns_total", "Locks that were taken over within this process.", func(s *stats) uint64 { return s.Locks.Turns }),
		count("lock_lost_total", "Locks that were lost.", func(s *stats) uint64 { return s.Locks.Lost }),
		count("lock_swept_total", "Keys that were removed in the background.", func(s *stats) uint64 { return s.Locks.Swept }),
		count("lock_reopened_total", "Queue watches that were begun anew.", func(s *stats) uint64 { return s.Locks.Reopened }),
		count("lock_confirmed_total", "Queues that were read to make sure.", func(s *stats) uint64 { return s.Locks.Confirmed }),
	}
}

// ofCache is package cache.
func ofCache() []series {
	return []series{
		count("cache_hits_total", "Reads that were answered from memory.", func(s *stats) uint64 { return s.Cache.Hits }),
		count("cache_misses_total", "Reads that were not.", func(s *stats) uint64 { return s.Cache.Misses }),
		count("cache_fills_total", "Reads of etcd for the cache.", func(s *stats) uint64 { return s.Cache.Fills }),
		count("cache_invalidations_total", "Entries that were dropped or replaced for having changed.", func(s *stats) uint64 { return s.Cache.Invalidations }),
		count("cache_evictions_total", "Entries that made room for others.", func(s *stats) uint64 { return s.Cache.Evictions }),
		count("cache_stale_total", "Reads that went to etcd because the watch was too old.", func(s *stats) uint64 { return s.Cache.Stale }),
		count("cache_bad_entries_total", "Values that did not decode.", func(s *stats) uint64 { return s.Cache.BadEntries }),
		count("cache_restarts_total", "Watches of the cache that were begun anew.", func(s *stats) uint64 { return s.Cache.Restarts }),
		gauge("cache_entries", "Entries in memory.", func(s *stats) int { return s.Cache.Entries }),
		gauge("cache_bad", "Keys whose value does not decode at present.", func(s *stats) int { return s.Cache.Bad }),
		seconds("cache_age_seconds", "For how long the cache may have missed changes.", func(s *stats) time.Duration { return s.CacheAge }),
	}
}
