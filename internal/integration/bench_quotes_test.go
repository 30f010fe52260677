package integration_test

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// quoteBlock is what README.md and docs/compare.md quote of the page: a table between two comments.
var quoteBlock = regexp.MustCompile(`(?s)<!-- performance: (\w+) -->\n.*?<!-- performance end -->`)

// quote is a line of such a table: a row of the page.
type quote struct {
	label       string
	table, name string
	n           int
	metric      string // "" means time
}

// quoteTables are the tables, by the name in their comment.
func quoteTables() map[string][]quote {
	const mutex, goroutines, update = "mutex", "mutex, goroutines of 4 clients", "update of one key"
	return map[string][]quote{
		"costs": {
			{label: "a mutex that 2 processes lock all the time, for each lock", table: "lock", name: mutex + closedLoop, n: 2},
			{label: "the same with 50 processes", table: "lock", name: mutex + closedLoop, n: 50},
			{label: "a mutex that 200 processes wait for, for each of them", table: "lock", name: mutex + onePass, n: 200},
			{label: "the same with 1,000 processes", table: "lock", name: mutex + onePass, n: 1000},
			{label: "a mutex that 16 goroutines of 4 processes lock all the time", table: "lock", name: goroutines, n: 16},
			{label: "a mutex that nobody else wants", table: "lock", name: mutex + uncontended},
			{label: "Get", table: "requests", name: "Get", n: 1},
			{label: "Put", table: "requests", name: "Put", n: 1},
			{label: "opening a client, and its first Get", table: "requests", name: openFirstGet},
			{label: "a read of a cached key, beside Get", table: "memory", name: "cached key", n: 1},
			{label: "the same by 16 goroutines, beside golang-lru", table: "memory", name: "cache hit", n: 16},
			{label: "a linearizable read of it by 256 goroutines, beside Get", table: "requests", name: linearizable, n: 256},
			{label: "an update of one key by 32 goroutines, beside `concurrency.STM`", table: "requests", name: update, n: 32},
			{label: "a transaction over 2 of 4 keys by 16 goroutines, beside `concurrency.STM`", table: "requests", name: transaction, n: 16},
			{label: "a key of 128, by a Batch, beside one Put after the other", table: "requests", name: "key of a Batch of 128"},
			{label: "a put among those of 256 goroutines (`kv.Coalesce`)", table: "requests", name: "Put through kv.Coalesce", n: 256},
			{label: "a listing of 10,000 keys", table: "requests", name: "List of 10,000 keys"},
			{label: "a change told to one of 1,000 subscribers", table: "watch", name: "delivery", n: 1000},
			{label: "picking one of 10 instances", table: "memory", name: "pick of 10 instances"},
		},
		"rpcs": {
			{label: "lock and unlock, nobody else there", table: "lock", name: mutex + uncontended, metric: "rpcs"},
			{label: "lock and unlock, 50 processes that wait", table: "lock", name: mutex + onePass, n: 50, metric: "rpcs"},
			{label: "lock and unlock, 50 processes that lock all the time", table: "lock", name: mutex + closedLoop, n: 50, metric: "rpcs"},
			{label: "lock and unlock, 16 goroutines of each of 4 processes", table: "lock", name: goroutines, n: 64, metric: "rpcs"},
			{label: "TryLock on a lock that is held", table: "lock", name: tryLock, metric: "rpcs"},
			{label: "Campaign and Resign", table: "lock", name: "election" + uncontended, metric: "rpcs"},
			{label: "32 goroutines that update one key, for each update (`concurrency.STM`)", table: "requests", name: update, n: 32, metric: "rpcs"},
			{label: "16 goroutines that each change 2 of 4 keys in a transaction, for each (`concurrency.STM`)", table: "requests", name: transaction, n: 16, metric: "rpcs"},
			{label: "opening a client, and its first Get", table: "requests", name: openFirstGet, metric: "rpcs"},
		},
	}
}

// quoteIn returns a page with its quotes as they are in the run. A row that only a full run has is
// left out after a quick one.
func (p performance) quoteIn(t *testing.T, page string) string {
	t.Helper()
	return quoteBlock.ReplaceAllStringFunc(page, func(block string) string {
		quotes, ok := quoteTables()[quoteBlock.FindStringSubmatch(block)[1]]
		require.True(t, ok, block)
		lines := [][]string{{"", "otherwise", "here", "ratio"}}
		for _, q := range quotes {
			i := slices.IndexFunc(p.Rows, func(r benchRow) bool { return r.Table == q.table && r.Name == q.name && r.N == q.n })
			if i < 0 {
				require.Equal(t, "quick", p.Mode, "no such row: %+v", q)
				continue
			}
			lines = append(lines, q.cells(p.Rows[i]))
		}
		start, _, _ := strings.Cut(block, "\n")
		return start + "\n\n" + tableText(lines) + "\n<!-- performance end -->"
	})
}

func (q quote) cells(r benchRow) []string {
	metric := cmp.Or(q.metric, "time")
	ratio := ""
	if v, ok := r.value("ratio", metric); ok {
		ratio = digits(v) + "×"
	}
	return []string{q.label, theirs(metric)(r), ours(metric)(r), ratio}
}
