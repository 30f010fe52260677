package scope

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// Metric is the value of a series. It has the fields of etcdkit.Metric.
type Metric struct {
	Name, Help, Unit string
	Counter          bool
	Labels           [][2]string
	Value            float64
	Start            time.Time // of a counter
}

// Field is a metric of a part with statistics of type S.
type Field[S any] struct {
	description

	value func(*S) float64
}

// description is what the series of a metric have in common.
type description struct {
	name, help, unit string
	counter          bool
	largest          bool // parts are combined by their maximum, not by their sum
}

// Counter returns a counter, which never decreases. Its name ends in _total.
func Counter[S any](name, help string, f func(*S) uint64) Field[S] {
	return Field[S]{description{name: name, help: help, counter: true}, func(s *S) float64 { return float64(f(s)) }}
}

// Gauge returns a gauge.
func Gauge[S any](name, help string, f func(*S) int) Field[S] {
	return Field[S]{description{name: name, help: help}, func(s *S) float64 { return float64(f(s)) }}
}

// Age returns a gauge in seconds. The value of several parts is that of the oldest one. Its name
// ends in _seconds.
func Age[S any](name, help string, f func(*S) time.Duration) Field[S] {
	return Field[S]{
		description{name: name, help: help, unit: "seconds", largest: true},
		func(s *S) float64 { return f(s).Seconds() },
	}
}

// Table describes the metrics of a kind of part.
type Table[S any] struct {
	Package string // etcdkit_PACKAGE_ is the prefix of the names
	Label   string // the name of the only label; "" if there is none
	Fields  []Field[S]
}

// maxLabelValues limits the label values of a package that have series of their own. The others
// share the value otherLabel.
const (
	maxLabelValues = 100
	otherLabel     = "other"
)

// group holds the series of a package.
type group struct {
	label  string
	fields []description
	series map[string]*series // by label value
	closed uint64             // number of series that have lost their last part
}

// series holds the parts of a package that have one label value.
type series struct {
	start    time.Time
	totals   []float64 // of closed parts, by field; 0 for gauges
	parts    map[*Part]struct{}
	closedAt uint64 // group.closed when the last part was closed
}

// Part is a part whose statistics are collected.
type Part struct {
	scope  *Scope
	group  *group
	series *series
	read   func() []float64
}

// Track adds the metrics of a part. value is its label value, in which bytes that are not UTF-8 are
// replaced, because monitoring systems refuse them. If the package has maxLabelValues others, the
// totals of the one that was closed first move to otherLabel; if none is closed, the part itself
// gets otherLabel.
//
// stats may be called at any time, also after Close. It must not call [Scope.Metrics] or
// [Part.Close], nor code of the user, which may call these. [Part.Close] must follow when the part
// is closed. Track returns nil if s is nil.
func Track[S any](s *Scope, t Table[S], value string, stats func() S) *Part {
	if s == nil {
		return nil
	}
	read := func() []float64 {
		all, out := stats(), make([]float64, len(t.Fields))
		for i, f := range t.Fields {
			out[i] = f.value(&all)
		}
		return out
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[t.Package]
	if g == nil {
		g = &group{label: t.Label, series: map[string]*series{}}
		for _, f := range t.Fields {
			d := f.description
			d.name = "etcdkit_" + t.Package + "_" + d.name
			g.fields = append(g.fields, d)
		}
		s.groups[t.Package] = g
	}
	p := &Part{scope: s, group: g, series: g.of(strings.ToValidUTF8(value, "\uFFFD")), read: read}
	p.series.parts[p] = struct{}{}
	return p
}

// of returns the series of a label value. If there are too many, it merges the one that was closed
// the longest time ago into that of otherLabel, or returns the latter if none is closed.
func (g *group) of(value string) *series {
	if known := g.series[value]; known != nil {
		return known
	}
	if value != otherLabel && g.own() >= maxLabelValues {
		oldest := ""
		for v, s := range g.series {
			if v != otherLabel && len(s.parts) == 0 && (oldest == "" || s.closedAt < g.series[oldest].closedAt) {
				oldest = v
			}
		}
		other := g.of(otherLabel)
		if oldest == "" {
			return other
		}
		for i, total := range g.series[oldest].totals {
			other.totals[i] += total
		}
		delete(g.series, oldest)
	}
	s := &series{start: time.Now(), totals: make([]float64, len(g.fields)), parts: map[*Part]struct{}{}}
	g.series[value] = s
	return s
}

// own returns the number of label values that have series of their own.
func (g *group) own() int {
	n := len(g.series)
	if g.series[otherLabel] != nil {
		n--
	}
	return n
}

// Close adds the counters of the part to the totals, and forgets the part. The caller must not hold
// a lock that statistics of any part need. Close is idempotent, and does nothing if p is nil.
func (p *Part) Close() {
	if p == nil {
		return
	}
	p.scope.collecting.Lock()
	defer p.scope.collecting.Unlock()
	last := p.read() // without mu, as stats may need locks of the part
	p.scope.mu.Lock()
	defer p.scope.mu.Unlock()
	if _, open := p.series.parts[p]; !open {
		return
	}
	delete(p.series.parts, p)
	for i, f := range p.group.fields {
		if f.counter {
			p.series.totals[i] += last[i]
		}
	}
	if len(p.series.parts) == 0 {
		p.group.closed++
		p.series.closedAt = p.group.closed
	}
}

// Metrics returns the metrics of all parts, sorted by name and then by label value. Counters
// include those of closed parts, which may have moved to otherLabel; see Track. A gauge with a
// label is missing if all its parts are closed, and so is an Age.
func (s *Scope) Metrics() (out []Metric) {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	type snapshot struct {
		*series

		label  [][2]string
		values []float64
		open   []*Part
	}
	all := map[string][]snapshot{}
	groups := map[string]*group{}
	s.mu.Lock()
	for name, g := range s.groups {
		groups[name] = g
		for _, value := range slices.Sorted(maps.Keys(g.series)) {
			one := snapshot{series: g.series[value]}
			if g.label != "" {
				one.label = [][2]string{{g.label, value}}
			}
			one.values, one.open = slices.Clone(one.totals), slices.Collect(maps.Keys(one.parts))
			all[name] = append(all[name], one)
		}
	}
	s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		g := groups[name]
		for _, one := range all[name] {
			for _, p := range one.open {
				for i, v := range p.read() {
					if g.fields[i].largest {
						one.values[i] = max(one.values[i], v)
					} else {
						one.values[i] += v
					}
				}
			}
		}
		for i, f := range g.fields {
			for _, one := range all[name] {
				if !f.counter && len(one.open) == 0 && (g.label != "" || f.largest) {
					continue
				}
				m := Metric{Name: f.name, Help: f.help, Unit: f.unit, Counter: f.counter, Labels: one.label, Value: one.values[i]}
				if f.counter {
					m.Start = one.start
				}
				out = append(out, m)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Metric) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
