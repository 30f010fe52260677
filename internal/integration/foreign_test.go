package integration_test

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// foreignEnv selects the tests of the foreign suites by a regular expression. Without it the suites
// do not run.
const foreignEnv = "ETCDKIT_FOREIGN"

const foreignModule = "go.etcd.io/etcd/tests/v3"

//go:embed testdata/foreign/client.go
var foreignClient []byte

//go:embed testdata/foreign/differences.txt
var foreignDifferences string

// TestForeignSuites runs the client tests of etcd itself over clients of this library. A mode is a
// way to make the client; mode "plain" is client/v3 alone, the control. A test may fail only if
// differences.txt lists it, and must then fail.
//
//nolint:paralleltest // etcd's tests have hard time limits
func TestForeignSuites(t *testing.T) {
	pattern := os.Getenv(foreignEnv)
	if pattern == "" {
		t.Skipf("%s is not set", foreignEnv)
	}
	suites := foreignSuites(t)
	differences := parseForeignDifferences(t)
	for _, mode := range []string{"plain", "open", "namespace", "coalesce"} {
		t.Run(mode, func(t *testing.T) {
			for _, s := range suites {
				t.Run(s.name, func(t *testing.T) {
					s.build(t)
					got := s.run(t, mode, pattern)
					listed := differences[mode+" "+s.name]
					got.confirmFailures(t, s, mode, listed)
					t.Logf("%d passed, %d of them on the second run only, %d failed, %d skipped", got.count("pass"),
						len(got.flaky), got.count("fail")+got.count(""), got.count("skip"))
					got.compare(t, listed, pattern == ".")
				})
			}
		})
	}
}

// foreignSuite is the tests of one package.
type foreignSuite struct {
	name    string // below integration/clientv3
	dir     string
	bin     string // the test binary, once built
	modfile string
}

// foreignSuites returns the packages of a copy of etcd's tests in which the client is made by
// foreignClient. The go command refuses an overlay over files of the module cache, so the copy
// takes the module's place.
func foreignSuites(t *testing.T) (suites []foreignSuite) {
	t.Helper()
	work := t.TempDir()
	tests := filepath.Join(work, "tests")
	var module struct{ Dir string }
	require.NoError(t, json.Unmarshal(goCommand(t, "mod", "download", "-json", foreignModule), &module))
	require.NoError(t, os.CopyFS(tests, os.DirFS(module.Dir)))
	replaceForeignClient(t, tests)

	modfile := filepath.Join(work, "go.mod")
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(work, name), data, 0o600))
	}
	goCommand(t, "mod", "edit", "-replace="+foreignModule+"="+tests, modfile)
	root := filepath.Join(tests, "integration", "clientv3")
	list := goCommand(t, "list", "-modfile="+modfile, "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}",
		foreignModule+"/integration/clientv3/...")
	for dir := range strings.Lines(string(list)) {
		dir = strings.TrimSpace(dir)
		name, err := filepath.Rel(root, dir)
		require.NoError(t, err)
		if name == "." {
			name = "clientv3"
		}
		bin := filepath.Join(work, strings.ReplaceAll(name, "/", "-")+".test")
		suites = append(suites, foreignSuite{name: name, dir: dir, bin: bin, modfile: modfile})
	}
	require.NotEmpty(t, suites)
	return suites
}

// build compiles the test binary unless it is there.
func (s foreignSuite) build(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(s.bin); err != nil {
		goCommand(t, "test", "-c", "-trimpath", "-modfile="+s.modfile, "-o", s.bin, s.dir)
	}
}

// replaceForeignClient replaces every call of clientv3.New in the copy of etcd's framework and
// client tests.
func replaceForeignClient(t *testing.T, tests string) {
	t.Helper()
	framework := filepath.Join(tests, "framework", "integration")
	const call = "clientv3.New("
	packages := map[string]string{} // the packages of the tests that make clients without the framework, by directory
	for _, root := range []string{framework, filepath.Join(tests, "integration", "clientv3")} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil || !bytes.Contains(data, []byte(call)) {
				return err
			}
			if root != framework {
				_, rest, _ := bytes.Cut(data, []byte("\npackage "))
				name, _, _ := bytes.Cut(rest, []byte("\n"))
				packages[filepath.Dir(path)] = string(name)
			}
			return os.WriteFile(path, bytes.ReplaceAll(data, []byte(call), []byte("NewSubject(")), 0o600)
		})
		require.NoError(t, err)
	}
	require.NotEmpty(t, packages)
	require.NoError(t, os.WriteFile(filepath.Join(framework, "etcdkit.go"), foreignClient, 0o600))
	for dir, name := range packages {
		text := fmt.Sprintf("package %s\n\nimport %q\n\nvar NewSubject = integration.NewSubject\n", name, foreignModule+"/framework/integration")
		require.NoError(t, os.WriteFile(filepath.Join(dir, "etcdkit_test.go"), []byte(text), 0o600))
	}
}

// goCommand runs the go command in this module without the workspace and returns its output.
func goCommand(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go %s\n%s", strings.Join(args, " "), &stderr)
	return out
}

// foreignResults holds how the tests of one run ended.
type foreignResults struct {
	outcome map[string]string // "pass", "skip" or "fail"; "" for a test that did not end
	output  map[string]*bytes.Buffer
	flaky   []string // failed, and passed when run again by themselves
}

// run runs the tests that match pattern.
func (s foreignSuite) run(t *testing.T, mode, pattern string) *foreignResults {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "tool", "test2json", s.bin, "-test.v=test2json", "-test.timeout=15m", "-test.run="+pattern)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "ETCDKIT_FOREIGN_MODE="+mode)
	out, err := cmd.Output()
	r := &foreignResults{outcome: map[string]string{}, output: map[string]*bytes.Buffer{}}
	for line := range bytes.Lines(out) {
		var event struct{ Action, Test, Output string }
		require.NoError(t, json.Unmarshal(line, &event))
		switch event.Action {
		case "run":
			r.outcome[event.Test] = ""
			r.output[event.Test] = &bytes.Buffer{}
		case "pass", "skip", "fail":
			if event.Test != "" {
				r.outcome[event.Test] = event.Action
			}
		case "output":
			if b := r.output[event.Test]; b != nil && !strings.Contains(event.Output, "logger.go:") {
				b.WriteString(event.Output)
			}
		}
	}
	if err != nil && len(r.failed()) == 0 { // such as a goroutine that is left behind
		r.outcome["TestMain"] = "fail"
		r.output["TestMain"] = bytes.NewBuffer(out)
	}
	return r
}

// failed returns the failed tests, without those that failed only because a subtest did.
func (r *foreignResults) failed() (names []string) {
	for name, outcome := range r.outcome {
		if outcome == "pass" || outcome == "skip" {
			continue
		}
		parent := func(other string) bool {
			return strings.HasPrefix(other, name+"/") && (r.outcome[other] == "fail" || r.outcome[other] == "")
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(r.outcome)), parent) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// count counts the tests, subtests not included, with an outcome.
func (r *foreignResults) count(outcome string) (n int) {
	for name, o := range r.outcome {
		if o == outcome && !strings.Contains(name, "/") {
			n++
		}
	}
	return n
}

// confirmFailures runs each test that failed and is not listed once more by itself. etcd's tests
// have time limits that a loaded machine exceeds.
func (r *foreignResults) confirmFailures(t *testing.T, s foreignSuite, mode string, listed map[string]string) {
	t.Helper()
	for _, name := range r.failed() {
		if _, ok := listed[name]; ok || name == "TestMain" {
			continue
		}
		top, _, _ := strings.Cut(name, "/")
		again := s.run(t, mode, "^"+top+"$")
		if again.outcome[top] != "pass" {
			continue
		}
		r.flaky = append(r.flaky, name)
		t.Logf("%s failed, and passed when run again by itself:\n%s", name, r.tail(name))
		maps.Copy(r.outcome, again.outcome)
	}
}

// compare reports the tests that failed and are not listed, and the listed ones that passed or, if
// all is set, are missing.
func (r *foreignResults) compare(t *testing.T, listed map[string]string, all bool) {
	t.Helper()
	for _, name := range r.failed() {
		if _, ok := listed[name]; !ok {
			t.Errorf("%s fails (%s):\n%s", name, cmp.Or(r.outcome[name], "does not end"), r.tail(name))
		}
	}
	for name, reason := range listed {
		switch outcome, ran := r.outcome[name]; {
		case ran && strings.HasPrefix(reason, "sometimes "):
		case ran:
			assert.NotEqual(t, "pass", outcome, "%s passes and is listed in differences.txt", name)
		case all:
			assert.Fail(t, "differences.txt lists a test that did not run", name)
		}
	}
}

// tail returns the last lines that a test printed.
func (r *foreignResults) tail(name string) string {
	lines := strings.SplitAfter(r.output[name].String(), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "")
}

// parseForeignDifferences returns the reason for each listed test, by mode and suite, then by the
// test's name.
func parseForeignDifferences(t *testing.T) map[string]map[string]string {
	t.Helper()
	table := map[string]map[string]string{}
	for line := range strings.Lines(foreignDifferences) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		require.Greater(t, len(fields), 3, "differences.txt: %q has no reason", line)
		for mode := range strings.SplitSeq(fields[0], ",") {
			key := mode + " " + fields[1]
			if table[key] == nil {
				table[key] = map[string]string{}
			}
			table[key][fields[2]] = strings.Join(fields[3:], " ")
		}
	}
	return table
}
