package config

import (
	"time"

	"github.com/etcdkit/etcdkit/internal/scope"
)

// measured is what the metrics of a source are computed from.
type measured struct {
	Stats

	Age  time.Duration
	Live int
}

// measure returns the current state of the source.
func (s *Source) measure() measured {
	st := s.Status()
	m := measured{Stats: s.Stats(), Age: st.Age}
	if st.Origin == Live {
		m.Live = 1
	}
	return m
}

// metrics describes the fields of measured.
//
//nolint:gochecknoglobals // a constant
var metrics = scope.Table[measured]{Package: "config", Label: "dir", Fields: []scope.Field[measured]{
	scope.Gauge("keys", "Keys, including those of the fallback file.", func(s *measured) int { return s.Keys }),
	scope.Gauge("bound", "Bound values.", func(s *measured) int { return s.Bound }),
	scope.Gauge("following", "Functions called on changes.", func(s *measured) int { return s.Following }),
	scope.Counter("updates_total", "Revisions applied.", func(s *measured) uint64 { return s.Updates }),
	scope.Counter("decodes_total", "Decodings of bound values.", func(s *measured) uint64 { return s.Decodes }),
	scope.Counter("bad_values_total", "Invalid values received.", func(s *measured) uint64 { return s.BadValues }),
	scope.Gauge("bad", "Bound values whose latest state is invalid.", func(s *measured) int { return s.Bad }),
	scope.Counter("panics_total", "Panics of callbacks and of methods of values.", func(s *measured) uint64 { return s.Panics }),
	scope.Counter("folded_total", "Changes merged or dropped because a callback was slow.", func(s *measured) uint64 { return s.Folded }),
	scope.Counter("ignored_total", "Keys received that are not valid names.", func(s *measured) uint64 { return s.Ignored }),
	scope.Counter("state_writes_total", "Writes of the state file.", func(s *measured) uint64 { return s.StateWrites }),
	scope.Counter("state_errors_total", "Failed writes of the state file.", func(s *measured) uint64 { return s.StateErrors }),
	scope.Age("age_seconds", "Bound of the age of the values in use.", func(s *measured) time.Duration { return s.Age }),
	scope.Gauge("live", "Sources whose values come from etcd, not from a file or defaults.", func(s *measured) int { return s.Live }),
}}
