package sim_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/sim"
)

var countFlag = flag.String("counts", "", "add what was simulated to the counts in this file, unless a test fails")

// counts holds how much was simulated: the counts of [sim.Sim.Count], and for each workload its
// seeds and the simulated time.
type counts struct {
	Workloads map[string]*workloadCount
	Events    map[string]int
}

// workloadCount is how much of one workload was simulated.
type workloadCount struct {
	Seeds     int
	Simulated time.Duration
}

func newCounts() counts {
	return counts{Workloads: map[string]*workloadCount{}, Events: map[string]int{}}
}

func (c counts) add(other counts) {
	for name, w := range other.Workloads {
		if c.Workloads[name] == nil {
			c.Workloads[name] = &workloadCount{}
		}
		c.Workloads[name].Seeds += w.Seeds
		c.Workloads[name].Simulated += w.Simulated
	}
	for name, n := range other.Events {
		c.Events[name] += n
	}
}

// print prints the counts, if there are any.
func (c counts) print(w io.Writer) {
	if len(c.Workloads) == 0 {
		return
	}
	fmt.Fprintf(w, "%-40s %10s %18s\n", "workload", "seeds", "simulated minutes")
	seeds, sum := 0, time.Duration(0)
	for _, name := range slices.Sorted(maps.Keys(c.Workloads)) {
		x := c.Workloads[name]
		fmt.Fprintf(w, "%-40s %10d %18.1f\n", name, x.Seeds, x.Simulated.Minutes())
		seeds, sum = seeds+x.Seeds, sum+x.Simulated
	}
	fmt.Fprintf(w, "%-40s %10d %18.1f\n", "all", seeds, sum.Minutes())
	for _, kind := range []string{"fault", "operation", "request"} {
		var names []string
		total := 0
		for name, n := range c.Events {
			if rest, ok := strings.CutPrefix(name, kind+" "); ok {
				names, total = append(names, rest), total+n
			}
		}
		slices.SortFunc(names, func(a, b string) int {
			return cmp.Or(cmp.Compare(c.Events[kind+" "+b], c.Events[kind+" "+a]), cmp.Compare(a, b))
		})
		for i, name := range names {
			names[i] = fmt.Sprint(name, " ", c.Events[kind+" "+name])
		}
		fmt.Fprintf(w, "%ss: %d (%s)\n", kind, total, strings.Join(names, ", "))
	}
}

// simulated holds the counts of this process.
var simulated = struct {
	sync.Mutex
	counts
}{counts: newCounts()}

// countSimulation adds what a simulation of a workload has done.
func countSimulation(workload string, s *sim.Sim) {
	c := counts{Workloads: map[string]*workloadCount{workload: {Seeds: 1, Simulated: s.Elapsed()}}, Events: s.Count()}
	simulated.Lock()
	defer simulated.Unlock()
	simulated.add(c)
}

// readCounts reads counts from a file, which need not exist.
func readCounts(file string) (counts, error) {
	c := newCounts()
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return c, fmt.Errorf("read the counts in %s: %w", file, err)
	}
	return c, nil
}

// addToFile adds counts to those in a file.
func addToFile(file string, added counts) error {
	c, err := readCounts(file)
	if err != nil {
		return err
	}
	c.add(added)
	data, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file) // the file is complete at any time
}
