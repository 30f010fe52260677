// Command mutants checks that the simulation finds defects. It puts known defects into the library,
// one at a time, and runs the workload that must find each, with the seeds from 1 up to a limit.
//
//	go run ./internal/sim/mutants                    # all
//	go run ./internal/sim/mutants -run watch-resume  # those whose name matches
//	go run ./internal/sim/mutants -table             # print the table of docs/testing.md
//
// A mutant is found if the workload fails with the message that its entry in the table names, which
// is that of a checker. Another message, such as that of a panic or of a deadlock of the bubble, does
// not count unless the entry names it. The command fails if a mutant is not found, or if the text
// that a mutant replaces does not occur in the code exactly once.
//
// All mutants are compiled into one binary of the tests, by an overlay of the build. No file of the
// repository is changed. The binary reads the name of the active mutant from the environment.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	pattern := flag.String("run", "", "regular expression of the names of the mutants to run")
	seeds := flag.Int("seeds", 0, "try this many seeds for each mutant instead of those in the table")
	binary := flag.String("binary", "", "use this binary with all mutants, and build it if it does not exist")
	parallel := flag.Int("p", runtime.NumCPU(), "number of mutants to run at a time")
	table := flag.Bool("table", false, "print the table and exit")
	verbose := flag.Bool("v", false, "print the first failure of each mutant")
	flag.Parse()
	if *table {
		printTable(os.Stdout)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r := runner{binary: *binary, seeds: *seeds, verbose: *verbose}
	if err := r.run(ctx, *pattern, *parallel); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1) //nolint:gocritic // stop has no effect on a process that ends
	}
}

// printTable prints the mutants as a table of Markdown.
func printTable(w io.Writer) {
	fmt.Fprintln(w, "| mutant | defect | file | found by | seeds |\n|---|---|---|---|---|")
	for i := range all {
		m := &all[i]
		fmt.Fprintf(w, "| `%s` | %s | `%s` | `%s` | %d |\n", m.name, m.defect, m.file, strings.TrimPrefix(m.workload, "TestSim_"), m.seeds)
	}
}

// runner runs the workloads with mutants.
type runner struct {
	root    string // of the module
	binary  string
	seeds   int
	verbose bool
}

func (r *runner) run(ctx context.Context, pattern string, parallel int) error {
	selected, err := selectMutants(pattern)
	if err != nil {
		return err
	}
	module, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Module.Path}}\n{{.Module.Dir}}", "./internal/sim").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	modulePath, root, _ := strings.Cut(strings.TrimSpace(string(module)), "\n")
	r.root = root
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if r.binary == "" {
		r.binary = filepath.Join(dir, "sim.test")
	}
	if r.binary, err = filepath.Abs(r.binary); err != nil {
		return err
	}
	if _, err := os.Stat(r.binary); err != nil {
		if err := build(ctx, root, modulePath, dir, r.binary); err != nil {
			return err
		}
	}
	return r.runAll(ctx, selected, parallel)
}

// selectMutants returns the mutants whose names match.
func selectMutants(pattern string) ([]*mutant, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	var out []*mutant
	for i := range all {
		if re.MatchString(all[i].name) {
			out = append(out, &all[i])
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no mutant matches %q", pattern)
	}
	return out, nil
}

// overlay writes the source of all files with mutants to dir, and returns the overlay for the build.
func overlay(root, modulePath, dir string) (map[string]string, error) {
	byFile := map[string][]mutant{}
	for _, m := range all {
		byFile[m.file] = append(byFile[m.file], m)
	}
	replace := map[string]string{}
	write := func(name string, src []byte) error {
		file := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		replace[filepath.Join(root, name)] = file
		return os.WriteFile(file, src, 0o600)
	}
	for name, mutants := range byFile {
		src, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return nil, err
		}
		if src, err = instrument(src, modulePath, mutants); err != nil {
			return nil, err
		}
		if err := write(name, src); err != nil {
			return nil, err
		}
	}
	return replace, write(mutationPackage+"/mutation.go", []byte(mutationSource))
}

// build builds the binary of the tests with all mutants.
func build(ctx context.Context, root, modulePath, dir, binary string) error {
	replace, err := overlay(root, modulePath, dir)
	if err != nil {
		return err
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return err
	}
	c := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", file, "-o", binary, "./internal/sim")
	c.Dir, c.Stdout, c.Stderr = root, os.Stdout, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("build the tests with the mutants: %w", err)
	}
	return nil
}

// runAll runs the mutants and prints a line for each, in the order of the table.
func (r *runner) runAll(ctx context.Context, selected []*mutant, parallel int) error {
	results := make([]chan result, len(selected))
	slots := make(chan struct{}, max(parallel, 1))
	var running sync.WaitGroup
	defer running.Wait()
	for i := range selected {
		results[i] = make(chan result, 1)
	}
	running.Go(func() {
		for i, m := range selected {
			slots <- struct{}{}
			running.Go(func() {
				results[i] <- r.runMutant(ctx, m)
				<-slots
			})
		}
	})
	fmt.Printf("%-26s %-36s %7s %7s %8s  %s\n", "mutant", "workload", "seed", "allowed", "time", "message")
	var missed []string
	for i, m := range selected {
		x := <-results[i]
		if ctx.Err() != nil {
			return ctx.Err()
		}
		seed := "-"
		if x.seed > 0 {
			seed = strconv.FormatInt(int64(x.seed), 10)
		} else {
			missed = append(missed, m.name)
		}
		fmt.Printf("%-26s %-36s %7s %7d %8v  %s\n", m.name, m.workload, seed, r.limit(m), x.took.Round(time.Second/10), x.message)
		if r.verbose {
			fmt.Println(x.output)
		}
	}
	if len(missed) > 0 {
		return fmt.Errorf("%d of %d mutants were not found: %s", len(missed), len(selected), strings.Join(missed, ", "))
	}
	fmt.Printf("%d mutants, all found\n", len(selected))
	return nil
}

// result is how a mutant was found.
type result struct {
	seed    int // 0 if it was not
	took    time.Duration
	message string // that it was found by, or others that do not count
	output  string
}

// limit returns the number of seeds to try.
func (r *runner) limit(m *mutant) int {
	if r.seeds > 0 {
		return r.seeds
	}
	return m.seeds
}

// seedTimeout bounds the time of one seed. A workload takes some seconds.
const seedTimeout = "5m"

// runMutant runs the workload with one seed after the other until the mutant is found.
func (r *runner) runMutant(ctx context.Context, m *mutant) (x result) {
	began := time.Now()
	defer func() { x.took = time.Since(began) }()
	want := regexp.MustCompile(m.message)
	for seed := 1; seed <= r.limit(m) && ctx.Err() == nil; seed++ {
		c := exec.CommandContext(ctx, r.binary, "-test.run=^"+m.workload+"$", fmt.Sprint("-seed=", seed), "-test.timeout="+seedTimeout)
		c.Dir, c.Env = filepath.Join(r.root, "internal", "sim"), append(os.Environ(), mutantVariable+"="+m.name)
		out, err := c.CombinedOutput()
		if err == nil {
			continue
		}
		if _, failed := errors.AsType[*exec.ExitError](err); !failed {
			x.message = err.Error()
			return x
		}
		lines := failures(string(out))
		if i := slices.IndexFunc(lines, want.MatchString); i >= 0 {
			x.seed, x.message, x.output = seed, lines[i], string(out)
			return x
		}
		x.message = fmt.Sprintf("seed %d: not by %s", seed, strings.Join(lines[:min(len(lines), 1)], ""))
		x.output = string(out)
	}
	return x
}

// failures returns the lines of an output that come before the trace of the simulation: those of
// the checkers, or of a panic.
func failures(output string) (out []string) {
	output, _, _ = strings.Cut(output, "the last lines of the trace:")
	for line := range strings.Lines(output) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "--- ") {
			out = append(out, line)
		}
	}
	return out
}
