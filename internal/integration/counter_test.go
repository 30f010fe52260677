package integration_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/kv"
)

// counterKey is below the dir of a counter. Its value is "N ID": what it counts to, and which
// increment did that.
const counterKey = "counter"

// adder makes one increment of a counter, and says what it then counted to, at which revision.
type adder func(ctx context.Context, id string) (n int, rev int64, err error)

// addWithUpdate increments as users of this library do. between is called between the read and the
// write.
func addWithUpdate(s *kv.Store, dir string, between func()) adder {
	return func(ctx context.Context, id string) (int, int64, error) {
		e, err := s.Update(ctx, dir+counterKey, func(cur kv.Entry[[]byte]) ([]byte, error) {
			between()
			n, _, err := parseCount(string(cur.Value))
			return []byte(formatCount(n+1, id)), err
		}, kv.WithOnce(), kv.WithUpsert())
		if err != nil {
			return 0, 0, err
		}
		n, _, err := parseCount(string(e.Value))
		return n, e.ModRevision, err
	}
}

// addByReadingAgain increments by the loop that is often written: read, compare and swap, and on
// whatever error start again from the read. It is wrong: the write that was answered by an error
// may have happened.
func addByReadingAgain(cli *clientv3.Client, dir string, between func()) adder {
	try := func(ctx context.Context, id string) (n int, rev int64, err error) {
		ctx, stop := context.WithTimeout(ctx, 2*time.Second)
		defer stop()
		r, err := cli.Get(ctx, dir+counterKey)
		if err != nil {
			return 0, 0, err
		}
		var mod int64
		if len(r.Kvs) > 0 {
			mod = r.Kvs[0].ModRevision
			if n, _, err = parseCount(string(r.Kvs[0].Value)); err != nil {
				return 0, 0, err
			}
		}
		between()
		w, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(dir+counterKey), "=", mod)).
			Then(clientv3.OpPut(dir+counterKey, formatCount(n+1, id))).Commit()
		if err == nil && !w.Succeeded {
			err = kv.ErrConflict
		}
		if err != nil {
			return 0, 0, err
		}
		return n + 1, w.Header.Revision, nil
	}
	return func(ctx context.Context, id string) (int, int64, error) {
		for {
			n, rev, err := try(ctx, id)
			if err == nil || ctx.Err() != nil {
				return n, rev, err
			}
		}
	}
}

func nothing() {}

func formatCount(n int, id string) string { return strconv.Itoa(n) + " " + id }

func parseCount(value string) (n int, id string, err error) {
	if value == "" {
		return 0, "", nil
	}
	count, id, _ := strings.Cut(value, " ")
	n, err = strconv.Atoi(count)
	return n, id, err
}

// counting is what was asked of a counter: an increment or a read.
type counting struct{ add bool }

// counterModel is a counter whose increments return what they count to.
func counterModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return 0 },
		Step: func(state, input, output any) (bool, any) {
			n := state.(int)
			if input.(counting).add {
				n++
			}
			return output == n, n
		},
	}
}

// counter records what clients ask of a counter and what they are told.
type counter struct {
	start   time.Time
	dir     string
	journal *journal // nil in a test of one process

	mu      sync.Mutex
	history []porcupine.Operation
	told    map[string]change // by the increment's ID
	refused int
	unknown []string
}

func newCounter() *counter { return &counter{start: time.Now(), told: map[string]change{}} }

func (c *counter) clock() int64 { return int64(time.Since(c.start)) }

// add makes an increment, again for as long as it is known not to have happened.
func (c *counter) add(ctx context.Context, worker int, id string, add adder) error {
	for {
		call := c.clock()
		line := c.journal.begin(journalLine{Kind: "counter", Name: c.dir, Who: id, Call: call})
		n, rev, err := add(ctx, id)
		end := c.clock()
		line.Return, line.Count, line.Rev, line.Unknown = end, n, rev, isUnknown(err)
		if err != nil {
			line.Failed = err.Error()
		}
		c.journal.end(line)
		c.mu.Lock()
		switch {
		case err == nil:
			c.told[id] = change{value: formatCount(n, id), rev: rev}
			c.history = append(c.history, porcupine.Operation{ClientId: worker, Input: counting{add: true}, Output: n, Call: call, Return: end})
		case isUnknown(err):
			c.unknown = append(c.unknown, id)
		default:
			c.refused++
		}
		c.mu.Unlock()
		if err == nil || isUnknown(err) || ctx.Err() != nil {
			return err
		}
	}
}

// read notes a read.
func (c *counter) read(ctx context.Context, worker int, s *kv.Store, dir string) {
	call := c.clock()
	e, err := s.Get(ctx, dir+counterKey)
	if err != nil {
		return // it told nothing
	}
	n, _, err := parseCount(string(e.Value))
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history = append(c.history, porcupine.Operation{ClientId: worker, Input: counting{}, Output: n, Call: call, Return: c.clock()})
}

// verdict is what became of a counter.
type verdict struct {
	Acknowledged, Unknown int
	Final                 int      // what it counts to in the end
	Twice                 []string // increments that happened more than once
	Lost                  []string // increments that did not happen as they were acknowledged
	Unasked               []string // increments that happened without having been acknowledged
	OutOfOrder            int      // changes that did not count one up
	History               porcupine.CheckResult
}

// judge compares what clients were told with what happened.
func (c *counter) judge(changes []change) verdict {
	v := verdict{Acknowledged: len(c.told), Unknown: len(c.unknown)}
	happened := map[string]change{}
	for _, ch := range changes {
		n, id, err := parseCount(ch.value)
		if err != nil || n != v.Final+1 {
			v.OutOfOrder++
		}
		v.Final = n
		if _, again := happened[id]; again {
			v.Twice = append(v.Twice, id)
		}
		happened[id] = ch
		if _, ok := c.told[id]; !ok {
			v.Unasked = append(v.Unasked, id)
		}
	}
	for id, told := range c.told {
		if is := happened[id]; is.value != told.value || is.rev != told.rev {
			v.Lost = append(v.Lost, id)
		}
	}
	v.History = porcupine.CheckOperationsTimeout(counterModel(), c.history, time.Minute)
	return v
}

func TestCounterModel_FindsViolations(t *testing.T) {
	t.Parallel()
	add := func(to int, call, ret int64) porcupine.Operation {
		return porcupine.Operation{Input: counting{add: true}, Output: to, Call: call, Return: ret}
	}
	read := func(n int, call, ret int64) porcupine.Operation {
		return porcupine.Operation{Input: counting{}, Output: n, Call: call, Return: ret}
	}
	tests := map[string]struct {
		history []porcupine.Operation
		ok      bool
	}{
		"increments one after the other":      {[]porcupine.Operation{add(1, 0, 1), add(2, 2, 3), read(2, 4, 5)}, true},
		"increments at once, in either order": {[]porcupine.Operation{add(2, 0, 3), add(1, 1, 2), read(2, 4, 5)}, true},
		"an increment that happened twice":    {[]porcupine.Operation{add(2, 0, 1)}, false},
		"two increments that count as one":    {[]porcupine.Operation{add(1, 0, 3), add(1, 1, 2)}, false},
		"an increment that is lost":           {[]porcupine.Operation{add(1, 0, 1), read(0, 2, 3)}, false},
		"a count that comes too early":        {[]porcupine.Operation{add(2, 0, 1), add(1, 2, 3)}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tc.ok, porcupine.CheckOperations(counterModel(), tc.history))
		})
	}
}
