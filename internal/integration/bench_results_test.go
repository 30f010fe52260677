package integration_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// partialFile holds the samples of a run that is not complete.
const partialFile = "testdata/bench-partial.json"

// samples are what was measured of one side, by metric.
type samples map[string][]float64

// benchRow is one row of a table.
type benchRow struct {
	Table  string  `json:"table"`
	Name   string  `json:"name"`
	N      int     `json:"n,omitzero"`
	Ours   samples `json:"ours,omitzero"`
	Theirs samples `json:"theirs,omitzero"`
	Limits []limit `json:"limits,omitzero"`
}

// rowSet collects the rows of one scenario.
type rowSet struct {
	table string
	rows  []benchRow
}

func (s *rowSet) add(m *meter, metric string, v float64) {
	i := slices.IndexFunc(s.rows, func(r benchRow) bool { return r.Name == m.name && r.N == m.n })
	if i < 0 {
		i = len(s.rows)
		s.rows = append(s.rows, benchRow{Table: s.table, Name: m.name, N: m.n, Ours: samples{}, Theirs: samples{}})
	}
	side := s.rows[i].Theirs
	if m.ours {
		side = s.rows[i].Ours
	}
	side[metric] = append(side[metric], significant(v))
}

// significant rounds to four digits.
func significant(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return v
	}
	unit := math.Pow(10, math.Floor(math.Log10(math.Abs(v)))-3)
	if unit < 1 {
		return math.Round(v/unit) / math.Round(1/unit) // exact in decimal
	}
	return math.Round(v/unit) * unit
}

// limit gives the rows of a scenario its limits, each row those of which it has the metric.
func (s *rowSet) limit(of scenario) {
	for i, r := range s.rows {
		for _, l := range of.limits {
			if l.row != "" && l.row != r.Name {
				continue
			}
			if _, ok := r.Ours[l.Metric]; ok {
				s.rows[i].Limits = append(s.rows[i].Limits, l)
			}
		}
	}
}

// value returns the median of one side, or of the ratio of ours to theirs.
func (r benchRow) value(of, metric string) (float64, bool) {
	v := r.series(of, metric)
	if len(v) == 0 {
		return 0, false
	}
	return median(v), true
}

// series returns the samples of "ours" or "theirs", or, for "ratio", the quotients of those that
// were taken together.
func (r benchRow) series(of, metric string) []float64 {
	ours, theirs := r.Ours[metric], r.Theirs[metric]
	switch of {
	case "ours":
		return ours
	case "theirs":
		return theirs
	}
	var out []float64
	for i := range min(len(ours), len(theirs)) {
		if theirs[i] != 0 {
			out = append(out, ours[i]/theirs[i])
		}
	}
	return out
}

// missed reports whether the row exceeds a limit.
func (r benchRow) missed(l limit) bool {
	v, ok := r.value(l.Of, l.Metric)
	return ok && v > l.Most
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// performance is docs/performance.json: a complete run.
type performance struct {
	Date     string            `json:"date"`
	Mode     string            `json:"mode"`
	Machine  string            `json:"machine"`
	Versions map[string]string `json:"versions"`
	Rows     []benchRow        `json:"rows"`
}

// partial is a run that goes on.
type partial struct {
	Mode   string                `json:"mode"`
	Commit string                `json:"commit"`
	Rows   map[string][]benchRow `json:"rows"` // by scenario
}

func (p *partial) has(scenario string) bool { return p.Rows[scenario] != nil }

func (p *partial) add(scenario string, rows []benchRow) { p.Rows[scenario] = rows }

// loadPartial returns the samples that an interrupted run of the same commit has left.
func loadPartial(t *testing.T, mode string) *partial {
	t.Helper()
	p := &partial{}
	text, err := os.ReadFile(partialFile)
	if err == nil {
		require.NoError(t, json.Unmarshal(text, p))
	} else {
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
	commit := commandOutput("git", "rev-parse", "HEAD")
	if p.Mode != mode || p.Commit != commit {
		p = &partial{Mode: mode, Commit: commit, Rows: map[string][]benchRow{}}
	}
	return p
}

func (p *partial) savePartial(t *testing.T) {
	t.Helper()
	text, err := json.Marshal(p)
	require.NoError(t, err)
	writeFile(t, partialFile, string(text))
}

// finish returns the complete run and removes the partial one.
func (p *partial) finish(t *testing.T, tables []table) performance {
	t.Helper()
	out := performance{Date: time.Now().Format(time.DateOnly), Mode: p.Mode, Machine: machine(), Versions: versions(t)}
	for _, tab := range tables {
		for _, s := range tab.scenarios {
			out.Rows = append(out.Rows, p.Rows[scenarioID(tab, s)]...)
		}
	}
	if err := os.Remove(partialFile); !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
	}
	return out
}

func scenarioID(tab table, s scenario) string { return tab.id + "/" + s.name + "/" + strconv.Itoa(s.n) }

// text returns the run as JSON, each row on a line of its own.
func (p performance) text(t *testing.T) string {
	t.Helper()
	rows := p.Rows
	p.Rows = []benchRow{}
	text, err := json.MarshalIndent(p, "", "\t")
	require.NoError(t, err)
	lines := make([]string, len(rows))
	for i, r := range rows {
		line, err := json.Marshal(r)
		require.NoError(t, err)
		lines[i] = "\t\t" + string(line)
	}
	return strings.Replace(string(text), `"rows": []`, "\"rows\": [\n"+strings.Join(lines, ",\n")+"\n\t]", 1) + "\n"
}

// writeFile replaces a file as a whole.

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o644))
	require.NoError(t, os.Rename(path+".new", path))
}

// machine describes the processor, the memory and the system.
func machine() string {
	cpu, memory := runtime.GOARCH, ""
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`(?m)^model name\s*: (.+)$`).FindSubmatch(text); m != nil {
			cpu = string(m[1])
		}
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		if m := regexp.MustCompile(`(?m)^MemTotal:\s*(\d+) kB$`).FindSubmatch(text); m != nil {
			if kb, err := strconv.Atoi(string(m[1])); err == nil {
				memory = ", " + strconv.Itoa((kb+1<<19)>>20) + " GiB of memory"
			}
		}
	}
	return cpu + ", " + strconv.Itoa(runtime.NumCPU()) + " CPUs" + memory + ", " + runtime.GOOS + "/" + runtime.GOARCH
}

// versions returns what was measured.
func versions(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{"Go": strings.TrimPrefix(runtime.Version(), "go"), "etcd": serverVersion(t)}
	for line := range strings.Lines(commandOutput("go", "list", "-m", "-f", "{{.Path}}\t{{.Version}}", "go.etcd.io/etcd/client/v3", "google.golang.org/grpc")) {
		path, version, _ := strings.Cut(strings.TrimSpace(line), "\t")
		out[strings.TrimPrefix(path, "go.etcd.io/etcd/")] = version
	}
	require.Contains(t, out, "client/v3")
	return out
}

// serverVersion is that of the servers that the harness starts.
func serverVersion(t *testing.T) string {
	t.Helper()
	cli := etcdtest.Client(t)
	status, err := cli.Status(t.Context(), cli.Endpoints()[0])
	require.NoError(t, err)
	return status.Version
}

func commandOutput(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
