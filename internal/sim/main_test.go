package sim_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

var (
	freshFlag = flag.Duration("fresh", 0, "afterwards run all workloads with fresh random seeds for this long, one seed per process")
	stateFlag = flag.String("state", "", "directory that holds the counts of all runs with -fresh, and the output of seeds that failed")
)

// countsFile is the file of the counts in the directory of -state.
const countsFile = "counts.json"

func TestMain(m *testing.M) { testmain.Run(suite{m}) }

// suite runs the tests, then the workloads with fresh seeds, and prints what was simulated.
type suite struct{ *testing.M }

// Run implements the method of [testing.M].
func (s suite) Run() int {
	code := s.M.Run()
	totals := newCounts()
	totals.add(simulated.counts)
	if *freshFlag > 0 && code == 0 {
		f := freshRun{dir: *stateFlag}
		temporary := f.dir == ""
		if temporary {
			dir, err := os.MkdirTemp("", "sim")
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			f.dir = dir
		}
		code = f.run(*freshFlag)
		totals.add(f.counts())
		if temporary && code == 0 { // else it holds the output of what has failed
			_ = os.RemoveAll(f.dir)
		}
	}
	if *countFlag != "" && code == 0 {
		if err := addToFile(*countFlag, totals); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	totals.print(os.Stdout)
	return code
}

// freshRun runs the workloads with fresh seeds, each in a process of its own, so that a deadlock of
// a bubble ends one seed only.
type freshRun struct{ dir string }

func (f freshRun) counts() counts {
	c, err := readCounts(filepath.Join(f.dir, countsFile))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return c
}

// run returns the exit code.
func (f freshRun) run(d time.Duration) (code int) {
	if err := os.MkdirAll(f.dir, 0o750); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for began := time.Now(); time.Since(began) < d; {
		seed := rand.Uint64N(1 << 48)
		start := time.Now()
		out, err := f.runSeed(seed)
		took := time.Since(start).Round(100 * time.Millisecond)
		if err == nil {
			fmt.Printf("seed %d: ok in %v\n", seed, took)
			continue
		}
		code = 1
		fmt.Printf("seed %d: FAILED in %v: %v\n%s", seed, took, err, firstLines(string(out)))
		log := filepath.Join(f.dir, fmt.Sprintf("seed-%d.log", seed))
		if err := os.WriteFile(log, out, 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		for _, test := range failedWorkloads(string(out)) {
			fmt.Printf("\tgo test ./internal/sim -run '^%s$' -seed %d\n", test, seed)
		}
		fmt.Printf("\tits output is in %s\n", log)
	}
	return code
}

// maxFirstLines is the number of lines that are printed of the output of a seed that has failed.
const maxFirstLines = 20

// firstLines returns the first lines of an output, indented, without the trace.
func firstLines(output string) string {
	output, _, _ = strings.Cut(output, traceTitle)
	var out strings.Builder
	n := 0
	for line := range strings.Lines(output) {
		n++
		if n > maxFirstLines {
			break
		}
		out.WriteString("\t" + strings.TrimRight(line, "\n") + "\n")
	}
	return out.String()
}

// failedWorkload matches the name of a workload in the output of a run that has failed, or that a
// panic or a timeout has ended.
var failedWorkload = regexp.MustCompile(`(?m)^(?:--- FAIL: |\t+)(TestSim_\w+)(?: \(|/seed)`)

// failedWorkloads returns the names of the workloads that have failed.
func failedWorkloads(output string) (out []string) {
	for _, found := range failedWorkload.FindAllStringSubmatch(output, -1) {
		if !slices.Contains(out, found[1]) {
			out = append(out, found[1])
		}
	}
	return out
}

func TestFailedWorkloads_AreNamedOnce(t *testing.T) {
	for output, want := range map[string][]string{
		"ok\n": nil,
		"--- FAIL: TestSim_A (0.29s)\n    --- FAIL: TestSim_A/seed=5 (0.29s)\n        x_test.go:1: wrong\n": {"TestSim_A"},
		"panic: test timed out after 1s\n\trunning tests:\n\t\tTestSim_A (1s)\n\t\tTestSim_A/seed=5 (1s)\n": {"TestSim_A"},
		"--- FAIL: TestSim_A (0s)\nok\n--- FAIL: TestSim_B (0s)\n":                                          {"TestSim_A", "TestSim_B"},
	} {
		assert.Equal(t, want, failedWorkloads(output))
	}
}

// runSeed runs the workloads with a seed and adds what was simulated to the counts.
func (f freshRun) runSeed(seed uint64) (out []byte, err error) {
	pattern := flag.Lookup("test.run").Value.String()
	if pattern == "" {
		pattern = "^TestSim"
	}
	skip := strings.Trim(flag.Lookup("test.skip").Value.String()+"|^TestSim_RepeatsASeed$", "|")
	c := exec.Command(os.Args[0], "-test.run="+pattern, "-test.skip="+skip, "-test.timeout=20m",
		fmt.Sprint("-seed=", seed), "-counts="+filepath.Join(f.dir, countsFile))
	return c.CombinedOutput()
}
