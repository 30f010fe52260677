package integration_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// countsFile is the baseline of TestCounts.
const countsFile = "testdata/counts.json"

// counts are figures that do not depend on the machine, by row and metric.
type counts map[string]map[string]float64

// TestCounts measures what operations cost in RPCs, events, messages, allocations and goroutines,
// and compares it with the baseline. Where ETCDKIT_BENCH is "counts" it writes the baseline
// instead.
//
// What takes long costs more: a hold of more than 250 ms is watched, and late answers are asked for
// again. So a scenario with a difference is measured up to three times, and the least figures count.
//
//nolint:paralleltest // allocations and goroutines of other tests would count
func TestCounts(t *testing.T) {
	write := os.Getenv(benchEnv) == "counts"
	var want counts
	if !write {
		text, err := os.ReadFile(countsFile)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &want))
	}
	got := counts{}
	for _, tab := range benchTables() {
		for _, s := range tab.scenarios {
			if s.counts == nil {
				continue
			}
			s.theirs, s.rounds = nil, 1
			measured := counts{}
			for range 3 {
				t.Run(scenarioID(tab, s), func(t *testing.T) {
					for _, r := range s.run(t, tab.id, "counts") {
						measured.add(r, s.counts)
					}
				})
				if write || len(measured.differences(want.of(measured))) == 0 {
					break
				}
			}
			maps.Copy(got, measured)
		}
	}
	if t.Failed() {
		return
	}
	if write {
		text, err := json.MarshalIndent(got, "", "\t")
		require.NoError(t, err)
		writeFile(t, countsFile, string(text)+"\n")
		return
	}
	assert.Empty(t, got.differences(want), "if this is as it should be: make bench-counts")
}

// of returns the part of the baseline that has the rows of other.
func (c counts) of(other counts) counts {
	out := counts{}
	for id := range other {
		if metrics, ok := c[id]; ok {
			out[id] = metrics
		}
	}
	return out
}

// add records the figures of a row, unless there are smaller ones.
func (c counts) add(r benchRow, metrics []string) {
	for metric := range r.Ours {
		if !slices.Contains(metrics, metric) {
			continue
		}
		v, _ := r.value("ours", metric)
		id := r.Table + ": " + r.Name
		if r.N > 0 {
			id += ", " + strconv.Itoa(r.N)
		}
		if c[id] == nil {
			c[id] = map[string]float64{}
		}
		if least, ok := c[id][metric]; !ok || v < least {
			c[id][metric] = significant(v)
		}
	}
}

// differences lists the figures that are not as in the baseline, better ones included.
func (c counts) differences(base counts) (out []string) {
	for id, metrics := range base {
		for metric, want := range metrics {
			switch got, ok := c[id][metric]; {
			case !ok:
				out = append(out, fmt.Sprintf("%s: %s: %v in the baseline, and not measured", id, metric, want))
			case isComparable(metric) && math.Abs(got-want) > tolerance(metric, want):
				out = append(out, fmt.Sprintf("%s: %s: %v in the baseline, now %v", id, metric, want, got))
			}
		}
	}
	for id, metrics := range c {
		for metric, got := range metrics {
			if _, ok := base[id][metric]; !ok {
				out = append(out, fmt.Sprintf("%s: %s: not in the baseline, now %v", id, metric, got))
			}
		}
	}
	slices.Sort(out)
	return out
}

// tolerance is by how much a figure may differ from its baseline. RPCs and messages may be repeated
// on a slow machine.
func tolerance(metric string, v float64) float64 {
	switch metric {
	case "allocs", "bytes", "heap":
		return 0.1 * v
	case "goroutines":
		return 2 // some come and go
	default:
		return max(0.05, 0.03*v)
	}
}

// isComparable reports whether a metric means something in this binary: the race detector allocates
// and drops what pools hold.
func isComparable(metric string) bool {
	return !raceEnabled() || !slices.Contains([]string{"allocs", "bytes", "heap"}, metric)
}

func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func TestCounts_DifferencesAreFound(t *testing.T) {
	t.Parallel()
	base := counts{"a": {"rpcs": 2, "allocs": 100}}
	for want, got := range map[string]counts{
		"a: rpcs: 2 in the baseline, now 2.1":          {"a": {"rpcs": 2.1, "allocs": 100}},
		"a: rpcs: 2 in the baseline, now 1.9":          {"a": {"rpcs": 1.9, "allocs": 100}},
		"a: rpcs: 2 in the baseline, and not measured": {"a": {"allocs": 100}},
		"a: events: not in the baseline, now 1":        {"a": {"rpcs": 2, "allocs": 100, "events": 1}},
		"b: rpcs: not in the baseline, now 1":          {"a": {"rpcs": 2, "allocs": 100}, "b": {"rpcs": 1}},
	} {
		assert.Equal(t, []string{want}, got.differences(base))
	}
	assert.Empty(t, counts{"a": {"rpcs": 2.02, "allocs": 109}}.differences(base))
	if !raceEnabled() {
		assert.Len(t, counts{"a": {"rpcs": 2, "allocs": 111}}.differences(base), 1)
	}
}
