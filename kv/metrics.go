package kv

import "github.com/etcdkit/etcdkit/internal/scope"

var _ = scope.ProvidePart(func(s *Store) *scope.Scope { return s.scope })

// metrics describes the fields of Stats.
//
//nolint:gochecknoglobals // a constant
var metrics = scope.Table[Stats]{Package: "kv", Fields: []scope.Field[Stats]{
	scope.Counter("calls_total", "Calls of the store.", func(s *Stats) uint64 { return s.Calls }),
	scope.Counter("retries_total", "Attempts beyond the first of a call.", func(s *Stats) uint64 { return s.Retries }),
	scope.Counter("unknown_outcomes_total", "Writes whose outcome is unknown.", func(s *Stats) uint64 { return s.Unknown }),
	scope.Counter("conflicts_total", "Attempts of Update and Transact that found a changed key.", func(s *Stats) uint64 { return s.Conflicts }),
}}
