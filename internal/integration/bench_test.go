package integration_test

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// benchEnv selects the sizes of the benchmarks: "quick" or "full". Without it they do not run.
const benchEnv = "ETCDKIT_BENCH"

// defaultRounds is how many times each side of a scenario is measured.
const defaultRounds = 5

// table is one table of docs/performance.md, and what fills it.
type table struct {
	id, title string
	text      string // markdown above the table
	columns   []column
	scenarios []scenario
}

// scenario is the same work done by this library and by its peer, which take turns.
type scenario struct {
	name         string // row of the table
	n            int    // size of the row, 0 if it has none
	rounds       int    // 0 means defaultRounds
	ours, theirs side   // theirs may be nil
	limits       []limit
	fullOnly     bool     // left out of a quick run
	counts       []string // metrics of ours that TestCounts compares with its baseline
}

// minCPUWindow is the shortest time over which CPU is measured: the kernel counts it in units of 10
// ms.
const minCPUWindow = 250 * time.Millisecond

// side does the work of one turn and records its samples.
type side func(m *meter)

// limit is what the median of a metric must not exceed.
type limit struct {
	row string // of the rows that a scenario fills, "" for all

	Metric string  `json:"metric"`
	Of     string  `json:"of"` // "ours", or "ratio" to the peer
	Most   float64 `json:"most"`
}

func benchTables() []table {
	return []table{lockTable(), idleTable(), requestTable(), memoryTable(), watchTable()}
}

// TestBench measures this library beside its peer and writes docs/performance.md. It keeps the
// samples of each scenario that is complete, and goes on from there if it was interrupted.
//
//nolint:paralleltest // measures time
func TestBench(t *testing.T) {
	mode := os.Getenv(benchEnv)
	if mode == "" {
		t.Skipf("%s is not set", benchEnv)
	}
	require.Contains(t, []string{"quick", "full"}, mode)
	kept := loadPartial(t, mode)
	complete := true
	for _, tab := range benchTables() {
		for _, s := range tab.scenarios {
			if s.fullOnly && mode == "quick" {
				continue
			}
			name := scenarioID(tab, s)
			if !kept.has(name) {
				t.Run(name, func(t *testing.T) {
					kept.add(name, s.run(t, tab.id, mode))
					kept.savePartial(t)
				})
			}
			complete = complete && kept.has(name)
		}
	}
	if complete && !t.Failed() {
		writePerformance(t, kept.finish(t, benchTables()))
	}
}

// run takes the samples of all rounds and returns the rows that they fill.
func (s scenario) run(t *testing.T, tableID, mode string) []benchRow {
	t.Helper()
	servers := &benchServers{t: t}
	rows := &rowSet{table: tableID}
	sides := []struct {
		name string
		do   side
	}{{"etcdkit", s.ours}, {"peer", s.theirs}}
	rounds := s.rounds
	if rounds == 0 {
		rounds = defaultRounds
	}
	for round := range rounds {
		for i := range sides {
			side := sides[(i+round)%len(sides)]
			if side.do == nil {
				continue
			}
			ok := t.Run(fmt.Sprintf("%d-%s", round+1, side.name), func(t *testing.T) {
				side.do(&meter{
					T: t, mode: mode, servers: servers, rpcs: etcdtest.Counter(t), rows: rows, ours: side.name == "etcdkit",
					name: s.name, n: s.n,
				})
			})
			require.True(t, ok)
		}
	}
	rows.limit(s)
	return rows.rows
}

// benchServers are the servers of one scenario, by the number of members.
type benchServers struct {
	t        *testing.T
	clusters map[int]*etcdtest.Cluster
}

func (b *benchServers) cluster(n int) *etcdtest.Cluster {
	if b.clusters[n] == nil {
		if b.clusters == nil {
			b.clusters = map[int]*etcdtest.Cluster{}
		}
		b.clusters[n] = etcdtest.StartCluster(b.t, n)
	}
	return b.clusters[n]
}

// meter takes the samples of one turn. Clean-up registered with it runs before the other side's
// turn.
type meter struct {
	*testing.T
	mode    string
	servers *benchServers
	rpcs    *etcdtest.RPCCounter
	rows    *rowSet
	ours    bool

	name string // row that is being filled
	n    int

	paced   bool // work waits for a clock, so that its time says nothing
	running bool
	since   usage
	sum     usage
}

// size picks a figure by mode: for TestCounts, make bench-quick, make bench.
func size[T any](m *meter, counts, quick, full T) T {
	switch m.mode {
	case "full":
		return full
	case "quick":
		return quick
	default:
		return counts
	}
}

// in returns a meter that fills another row of the table.
func (m *meter) in(name string, n int) *meter {
	other := *m
	other.name, other.n, other.running, other.sum = name, n, false, usage{}
	return &other
}

// cluster returns the cluster of n members of the scenario, started at the first use.
func (m *meter) cluster(n int) *etcdtest.Cluster { return m.servers.cluster(n) }

// server returns the single server of the scenario, started at the first use.
func (m *meter) server() *etcdtest.Server { return m.cluster(1).Members[0] }

// client returns a client of client/v3 as it comes.
func (m *meter) client() *clientv3.Client {
	m.Helper()
	return m.server().Client(m, m.rpcs.Option)
}

// open returns a client of this library as it comes.
func (m *meter) open() *etcdkit.Client {
	m.Helper()
	return m.openAt(m.server().Endpoints())
}

func (m *meter) openAt(endpoints []string) *etcdkit.Client {
	m.Helper()
	cfg := etcdkit.Config{Endpoints: endpoints}
	c, err := etcdkit.Open(m.Context(), cfg, etcdkit.WithDialOptions(m.rpcs.DialOption()))
	require.NoError(m, err)
	m.Cleanup(func() { _ = c.Close() })
	return c
}

// record adds a sample of a metric.
func (m *meter) record(metric string, v float64) { m.rows.add(m, metric, v) }

// measure records what work takes for each of the operations that it returns the number of. work
// may call pause and resume.
func (m *meter) measure(work func() (ops int)) {
	m.Helper()
	runtime.GC()
	m.sum = usage{}
	m.resume()
	ops := work()
	if m.running {
		m.pause()
	}
	require.Positive(m, ops)
	all := m.sum.metrics()
	if m.paced {
		delete(all, "time")
	}
	for metric, v := range all {
		m.record(metric, v/float64(ops))
	}
}

// pause leaves out what follows, up to resume.
func (m *meter) pause() {
	m.Helper()
	m.sum = m.sum.plus(m.usage(false), 1).plus(m.since, -1)
	m.running = false
}

// resume ends a pause.
func (m *meter) resume() {
	m.Helper()
	m.since = m.usage(true)
	m.running = true
}

// usage is what was used up to a moment, or between two.
type usage struct {
	time, allocs, bytes, rpcs, messages, events, cpu, client float64
}

// usage reads all meters. The clock is read last before work and first after it.
func (m *meter) usage(before bool) usage {
	m.Helper()
	var u usage
	now := func() { u.time = float64(time.Since(benchStart)) }
	if !before {
		now()
	}
	var mem runtime.MemStats
	read := []func(){
		func() {
			u.events = m.serverSum(func(s *etcdtest.Server) float64 { return s.Metric("etcd_debugging_mvcc_events_total") })
		},
		func() {
			u.cpu, u.client = m.serverSum(func(s *etcdtest.Server) float64 { return cpuTime(m, s.PID()) }), cpuTime(m, os.Getpid())
		},
		func() { u.rpcs, u.messages = rpcTotals(m.rpcs) },
		func() {
			runtime.ReadMemStats(&mem)
			u.allocs, u.bytes = float64(mem.Mallocs), float64(mem.TotalAlloc)
		},
	}
	for i := range read {
		if before {
			read[i]()
		} else {
			read[len(read)-1-i]()
		}
	}
	if before {
		now()
	}
	return u
}

// benchStart is the moment that times are counted from.
var benchStart = time.Now()

func (m *meter) serverSum(of func(*etcdtest.Server) float64) (sum float64) {
	for _, c := range m.servers.clusters {
		for _, s := range c.Members {
			sum += of(s)
		}
	}
	return sum
}

func (u usage) plus(v usage, times float64) usage {
	u.time += times * v.time
	u.allocs += times * v.allocs
	u.bytes += times * v.bytes
	u.rpcs += times * v.rpcs
	u.messages += times * v.messages
	u.events += times * v.events
	u.cpu += times * v.cpu
	u.client += times * v.client
	return u
}

func (u usage) metrics() map[string]float64 {
	all := map[string]float64{"time": u.time, "allocs": u.allocs, "bytes": u.bytes, "rpcs": u.rpcs, "messages": u.messages, "events": u.events}
	if u.time >= float64(minCPUWindow) && u.client > 0 {
		maps.Copy(all, map[string]float64{"cpu": u.cpu, "client": u.client})
	}
	return all
}

// rpcTotals returns the unary attempts, and the messages sent by attempts of all methods.
func rpcTotals(c *etcdtest.RPCCounter) (rpcs, messages float64) {
	for method, n := range c.Counts() {
		if method != "Watch/Watch" && method != "Lease/LeaseKeepAlive" {
			rpcs += float64(n)
		}
		messages += float64(c.Sent(method))
	}
	return rpcs, messages
}

// cpuTime returns the nanoseconds of CPU that a process has used, 0 where the system has no /proc.
func cpuTime(tb testing.TB, pid int) float64 {
	tb.Helper()
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if os.IsNotExist(err) {
		return 0
	}
	require.NoError(tb, err)
	_, rest, _ := strings.Cut(string(stat), ") ") // the command may contain spaces
	fields := strings.Fields(rest)
	require.Greater(tb, len(fields), 12)
	ticks := 0.0
	for _, f := range fields[11:13] { // utime, stime
		v, err := strconv.ParseFloat(f, 64)
		require.NoError(tb, err)
		ticks += v
	}
	return ticks * float64(10*time.Millisecond)
}

// heap returns the live heap.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return float64(mem.HeapAlloc)
}

// goroutines returns the least number of goroutines within half a second: those that stay.
func goroutines(t *testing.T) float64 {
	t.Helper()
	least := runtime.NumGoroutine()
	for range 10 {
		spend(t, 50*time.Millisecond)
		least = min(least, runtime.NumGoroutine())
	}
	return float64(least)
}
