//nolint:paralleltest // each test has a cluster, and the machine, to itself
package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// history records what clients ask of some keys, and what they are told.
type history struct {
	start   time.Time
	dir     string
	journal *journal // nil in a test of one process
	who     string   // begins the values of this process

	mu         sync.Mutex
	operations []porcupine.Operation
	nothing    []string // values of writes that are known not to have happened
	writes     int
	clients    int
}

func newHistory(dir string) *history { return &history{start: time.Now(), dir: dir} }

func (h *history) clock() int64 { return int64(time.Since(h.start)) }

// next numbers writes, or clients.
func (h *history) next(n *int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	*n++
	return *n
}

// client makes random calls, one at a time. It remembers a revision that it may find a key at.
type client struct {
	*history

	t     *testing.T
	store *kv.Store
	id    int
	mods  map[string]int64
}

func (h *history) newClient(t *testing.T, s *kv.Store) *client {
	t.Helper()
	return &client{history: h, t: t, store: s, id: h.next(&h.clients), mods: map[string]int64{}}
}

// call makes one random call. Half of the writes carry an operation slot: of those the outcome is
// known.
func (c *client) call(keys int) {
	in := ask{Op: "get", Key: fmt.Sprint("k", rand.IntN(keys))}
	if i := rand.IntN(10); i >= 4 {
		in.Op = []string{"put", "put", "create", "replace", "replace", "delete"}[i-4]
	}
	if in.Op == "replace" && c.mods[in.Key] == 0 {
		in.Op = "get"
	}
	in.Mod = c.mods[in.Key]
	if in.Op != "get" && in.Op != "delete" {
		in.Value = fmt.Sprint(c.who, "v", c.next(&c.writes))
	}
	ctx := c.t.Context()
	var once []kv.WriteOption
	if rand.IntN(2) == 0 {
		once = append(once, kv.WithOnce())
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, patience)
		defer stop()
	}
	call := c.clock()
	line := c.journal.begin(journalLine{Kind: "register", Name: c.dir, Call: call, Ask: &in})
	out, err := c.make(ctx, in, once)
	op := porcupine.Operation{ClientId: c.id, Input: in, Call: call, Output: out, Return: c.clock()}
	c.note(op, len(once) > 0, err)
	if isUnknown(err) {
		out = told{Is: unknown}
	} else if err != nil {
		line.Failed = err.Error()
	}
	line.Return, line.Told = op.Return, &out
	c.journal.end(line)
}

// make makes a call. The error is what the answer does not hold.
func (c *client) make(ctx context.Context, in ask, once []kv.WriteOption) (out told, err error) {
	key, value := c.dir+in.Key, []byte(in.Value)
	var e kv.Entry[[]byte]
	switch in.Op {
	case "get":
		e, err = c.store.Get(ctx, key)
		out = told{Value: string(e.Value), Rev: e.ModRevision}
	case "put":
		out.Rev, err = c.store.Put(ctx, key, value, options[kv.PutOption](once)...)
	case "create":
		out.Rev, err = c.store.Create(ctx, key, value, options[kv.PutOption](once)...)
	case "replace":
		out.Rev, err = c.store.Replace(ctx, key, value, in.Mod, options[kv.PutOption](once)...)
	case "delete":
		if out.Rev, err = c.store.Delete(ctx, key, options[kv.DeleteOption](once)...); err == nil && out.Rev == 0 {
			out.Is = refused
		}
	}
	switch conflict, _ := errors.AsType[*kv.ConflictError](err); {
	case conflict != nil && !isUnknown(err):
		return told{Is: refused, Rev: conflict.Have}, nil
	case errors.Is(err, kv.ErrExists) && !isUnknown(err):
		return told{Is: exists}, nil
	case errors.Is(err, kv.ErrNotFound):
		return told{}, nil
	}
	return out, err
}

func options[T any](once []kv.WriteOption) []T {
	out := make([]T, len(once))
	for i, o := range once {
		out[i] = any(o).(T)
	}
	return out
}

// note adds a call to the history, unless it told nothing and changed nothing.
func (c *client) note(op porcupine.Operation, once bool, err error) {
	in, out := op.Input.(ask), op.Output.(told)
	switch {
	case err == nil && (out.Is == done || out.Is == refused):
		c.mods[in.Key] = out.Rev
		if in.Op == "delete" {
			c.mods[in.Key] = 0
		}
	case err == nil:
	case isUnknown(err):
		assert.False(c.t, once && !isFull(err), "%s %s has an operation slot: %v", in.Op, in.Key, err)
		// It may happen at any time from now on, and its client does not wait for it any longer.
		op.Output, op.Return, c.id = told{Is: unknown}, math.MaxInt64, c.next(&c.clients)
	case in.Op == "get":
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil || isUnknown(err) {
		c.operations = append(c.operations, op)
	} else {
		c.nothing = append(c.nothing, in.Value)
	}
}

// check fails the test unless some order of the operations explains all answers, and etcd's own
// history agrees.
func (h *history) check(t *testing.T, changes []change) {
	t.Helper()
	at := map[string]int64{}
	for _, ch := range changes {
		if ch.deleted {
			continue
		}
		assert.NotContains(t, at, ch.value, "was written twice")
		assert.NotContains(t, h.nothing, ch.value, "was written, and its client told that it was not")
		at[ch.value] = ch.rev
	}
	kinds := map[string]int{}
	for _, op := range h.operations {
		in, out := op.Input.(ask), op.Output.(told)
		if out.Is == done && in.Value != "" {
			assert.Equal(t, at[in.Value], out.Rev, "%+v was answered by %+v between %v and %v", in, out, time.Duration(op.Call), time.Duration(op.Return))
		}
		kinds[in.Op+[]string{"", " refused", " refused", " unknown"}[out.Is]]++
	}
	settled := settle(h.operations, changes)
	began := time.Now()
	assert.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(registerModel(), settled, time.Minute))
	t.Logf("%v; %d failed without effect; %d of unknown outcome did not happen; checked in %v",
		kinds, len(h.nothing), len(h.operations)-len(settled), time.Since(began).Round(time.Millisecond))
}

// under makes random calls through stores, two at a time through each, for as long as the storm
// lasts, and checks them.
func (h *history) under(t *testing.T, s storm, fault func(), truth *chronicle, stores ...*kv.Store) {
	t.Helper()
	s.workers = 2 * len(stores)
	var clients []*client
	for i := range s.workers {
		clients = append(clients, h.newClient(t, stores[i%len(stores)]))
	}
	rounds, faults := s.run(t, fault, func(worker int) { clients[worker].call(4) })
	t.Logf("%d calls, %d times disturbed", rounds, faults)
	h.check(t, truth.read(t))
}

func TestHistory_IsLinearizableWhileLeadersAreKilled(t *testing.T) {
	cluster := etcdtest.StartCluster(t, 3)
	h := newHistory("suite/")
	truth := newChronicle(t, cluster.Client(t), h.dir, h.clock)
	var stores []*kv.Store
	for range 3 {
		stores = append(stores, open(t, cluster.Endpoints()).KV())
	}
	h.under(t, storm{rounds: scale(1_000, 20_000), faults: scale(3, 15), every: 2 * time.Second},
		func() { killLeader(t, cluster) }, truth, stores...)
}

// The leader goes for good, in good order, and two members are left.
func TestHistory_IsLinearizableWhenTheLeaderStops(t *testing.T) {
	cluster := newCluster(t)
	h := newHistory("suite/")
	truth := newChronicle(t, newClient(t, cluster.Endpoints()), h.dir, h.clock)
	var stores []*kv.Store
	for range 3 {
		stores = append(stores, etcdtest.Must(kv.New(newClient(t, cluster.Endpoints()))))
	}
	h.under(t, storm{rounds: scale(300, 5_000), faults: 1, every: 200 * time.Millisecond},
		sync.OnceFunc(func() { cluster.Members[cluster.WaitLeader(t)].Stop(t) }), truth, stores...)
}
