package sim_test

// The invariants of kv:
//
//   - Outcomes: a write that returned no error is in the committed history once, under its key and at
//     the revision that was returned. A write whose outcome is unknown is there once or not at all.
//     A write with any other error is not there. This holds whatever was sent twice.
//   - Conditions: Create took effect where the key did not exist, and Replace and DeleteAt right after
//     the revision that they name. A conflict is reported only if the key had another revision.
//   - Reads: what Get, GetMany and List return was the state at one revision between their call and
//     their return.
//   - Updates of a counter raise it by one each.
//   - Transactions: at each revision the accounts have the sum that they had at first, and each
//     transfer changes two accounts and writes its receipt at one revision.
//   - Liveness: once faults stop, every kind of call succeeds within a bound.
//   - Nothing is left behind: after the clients are closed there are no leases, once they have
//     expired.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/sim"
	"github.com/etcdkit/etcdkit/kv"
)

const (
	kvClients    = 3
	kvWorkers    = 3 // of each client
	kvRegisters  = 4
	kvAccounts   = 4
	kvFaultTime  = 25 * time.Second
	kvBalance    = 100              // of each account at first
	kvRecovery   = 30 * time.Second // until every kind of call has succeeded after the faults
	kvOnceExpiry = 75 * time.Second // after which the leases of WithOnce are gone
)

// outcome is what the library has reported of a write.
type outcome int

const (
	applied outcome = iota
	refused
	unknown
)

// outcomeOf returns the outcome that an error tells.
func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return applied
	case errors.Is(err, kv.ErrUnknownOutcome):
		return unknown
	default:
		return refused
	}
}

// write is one write of a value that nobody else writes, or a delete at a revision.
type write struct {
	what    string
	key     string
	value   string // "" for a delete
	outcome outcome
	rev     int64 // at which it was applied, if known
	err     error

	create bool  // only if the key does not exist
	after  int64 // only after this revision, if not 0
}

// writes holds what the workers have written.
type writes struct {
	mu   sync.Mutex
	all  []write
	n    map[string]int // of calls by what and outcome
	next int
}

// value returns a value that is used once.
func (w *writes) value() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	return "v" + strconv.Itoa(w.next)
}

func (w *writes) add(x write) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x.outcome = outcomeOf(x.err)
	w.all = append(w.all, x)
	w.n[x.what+" "+[...]string{"applied", "refused", "unknown"}[x.outcome]]++
}

// check compares the writes with the history.
func (w *writes) check(t *testing.T, h *history) {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := map[string][]*mvccpb.Event{} // by value
	deletes := map[string]int{}           // by key and revision that they follow
	for key, events := range h.events {
		if strings.Contains(key, ".etcdkit/") {
			continue
		}
		before := int64(0)
		for _, e := range events {
			if e.Type == mvccpb.Event_DELETE {
				deletes[fmt.Sprint(key, "@", before)]++
				before = 0
				continue
			}
			for v := range strings.FieldsSeq(string(e.Kv.Value)) {
				if strings.HasPrefix(v, "v") {
					found[v] = append(found[v], e)
				}
			}
			before = e.Kv.ModRevision
		}
	}
	deleters := map[string][]write{}
	for _, x := range w.all {
		if x.value == "" {
			at := fmt.Sprint(x.key, "@", x.after)
			deleters[at] = append(deleters[at], x)
			continue
		}
		events := found[x.value]
		delete(found, x.value)
		switch {
		case len(events) > 1:
			t.Errorf("%s of %s to %s took effect %d times, at %d and %d (%v)", x.what, x.key, x.value, len(events), events[0].Kv.ModRevision, events[1].Kv.ModRevision, x.err)
		case len(events) == 0 && x.outcome == applied:
			t.Errorf("%s of %s to %s at %d was acknowledged and is lost", x.what, x.key, x.value, x.rev)
		case len(events) == 1 && x.outcome == refused:
			t.Errorf("%s of %s to %s took effect at %d, and returned %v", x.what, x.key, x.value, events[0].Kv.ModRevision, x.err)
		}
		for _, e := range events {
			if rev := e.Kv.ModRevision; string(e.Kv.Key) != x.key || x.rev != 0 && x.outcome == applied && x.rev != rev {
				t.Errorf("%s of %s to %s at %d took effect on %s at %d", x.what, x.key, x.value, x.rev, e.Kv.Key, rev)
			}
			before, _ := stateAt(h.events[x.key], e.Kv.ModRevision-1)
			if x.create && before != 0 || x.after != 0 && before != x.after {
				t.Errorf("%s of %s to %s took effect after revision %d, not %d", x.what, x.key, x.value, before, x.after)
			}
		}
	}
	for v, events := range found {
		t.Errorf("nobody has written %s, of %s at %d", v, events[0].Kv.Key, events[0].Kv.ModRevision)
	}
	for at, n := range deletes {
		if !strings.HasSuffix(at, "@0") && len(deleters[at]) == 0 {
			t.Errorf("nobody has deleted %s (%d)", at, n)
		}
	}
	for at, all := range deleters {
		acknowledged, possible := 0, 0
		for _, x := range all {
			switch x.outcome {
			case applied:
				acknowledged++
				if _, next := stateAt(h.events[x.key], x.after); next != x.rev {
					t.Errorf("the delete of %s at %d was acknowledged at %d: the next change is at %d", x.key, x.after, x.rev, next)
				}
			case unknown:
				possible++
			}
		}
		if n := deletes[at]; acknowledged > n || n > acknowledged+possible {
			t.Errorf("%d deletes of %s took effect: %d were acknowledged, %d are unknown", n, at, acknowledged, possible)
		}
	}
}

// kvWorker makes calls of one client, one after the other.
type kvWorker struct {
	t      *testing.T
	s      *sim.Sim
	name   string
	rng    *rand.Rand
	store  *kv.Store
	h      *history
	writes *writes
}

func (w *kvWorker) register() string { return fmt.Sprint("reg/", w.rng.IntN(kvRegisters)) }

// once returns WithOnce in half of the cases.
func (w *kvWorker) once() (o []kv.WriteOption) {
	if w.rng.IntN(2) == 0 {
		o = append(o, kv.WithOnce())
	}
	return o
}

// asPut returns options of writes as those of puts.
func asPut(o []kv.WriteOption) (out []kv.PutOption) {
	for _, x := range o {
		out = append(out, x)
	}
	return out
}

// kvCalls are the kinds of calls of a worker.
var kvCalls = []struct {
	name string
	call func(w *kvWorker, ctx context.Context) error
}{
	{"get", (*kvWorker).get},
	{"get many", (*kvWorker).getMany},
	{"list", (*kvWorker).list},
	{"put", (*kvWorker).put},
	{"create", (*kvWorker).create},
	{"replace", (*kvWorker).replace},
	{"delete", (*kvWorker).delete},
	{"update", (*kvWorker).update},
	{"batch", (*kvWorker).batch},
	{"transfer", (*kvWorker).transfer},
	{"transfer", (*kvWorker).transfer},
}

// checkRead checks what a read that began at revision first has returned for a key.
func (w *kvWorker) checkRead(what, key string, e kv.Entry[[]byte], found bool, first int64) {
	last := w.h.revision()
	if !found {
		e.ModRevision = 0
	}
	if !w.h.current(key, e.ModRevision, first, last) {
		mod, next := w.h.at(key, first)
		w.t.Errorf("%s: %s of %s returned revision %d; it was %d at %d, when the call began, changed at %d, and the call returned at %d",
			w.name, what, key, e.ModRevision, mod, first, next, last)
	}
	if !found {
		return
	}
	for _, x := range w.h.of(key) {
		if x.Kv.ModRevision == e.ModRevision && !bytes.Equal(x.Kv.Value, e.Value) {
			w.t.Errorf("%s: %s of %s returned %q at revision %d, which wrote %q", w.name, what, key, e.Value, e.ModRevision, x.Kv.Value)
		}
	}
}

func (w *kvWorker) get(ctx context.Context) error {
	key, first := w.register(), w.h.revision()
	e, err := w.store.Get(ctx, key)
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return err
	}
	w.checkRead("get", key, e, err == nil, first)
	return nil
}

func (w *kvWorker) getMany(ctx context.Context) error {
	var keys []string
	for i := range kvRegisters {
		keys = append(keys, fmt.Sprint("reg/", i))
	}
	first := w.h.revision()
	entries, rev, err := w.store.GetMany(ctx, keys...)
	if err != nil {
		return err
	}
	w.checkSnapshot("get many", entries, rev, first)
	return nil
}

func (w *kvWorker) list(ctx context.Context) error {
	first, rev, entries := w.h.revision(), int64(0), map[string]kv.Entry[[]byte]{}
	for e, err := range w.store.List(ctx, "reg/", kv.WithReadRevision(&rev)) {
		if err != nil {
			if errors.Is(err, kv.ErrCompacted) {
				return nil // the revision that it reads at was compacted meanwhile
			}
			return err
		}
		entries[e.Key] = e
	}
	w.checkSnapshot("list", entries, rev, first)
	return nil
}

// checkSnapshot checks what a read of all registers has returned.
func (w *kvWorker) checkSnapshot(what string, entries map[string]kv.Entry[[]byte], rev, first int64) {
	if last := w.h.revision(); rev < first || rev > last {
		w.t.Errorf("%s: %s is of revision %d; it began at %d and returned at %d", w.name, what, rev, first, last)
	}
	for i := range kvRegisters {
		key := fmt.Sprint("reg/", i)
		if mod, _ := w.h.at(key, rev); mod != entries[key].ModRevision {
			w.t.Errorf("%s: %s at revision %d has revision %d of %s, which is %d", w.name, what, rev, entries[key].ModRevision, key, mod)
		}
	}
}

func (w *kvWorker) put(ctx context.Context) error {
	x := write{what: "put", key: w.register(), value: w.writes.value()}
	x.rev, x.err = w.store.Put(ctx, x.key, []byte(x.value), asPut(w.once())...)
	w.writes.add(x)
	return x.err
}

func (w *kvWorker) create(ctx context.Context) error {
	x := write{what: "create", key: w.register(), value: w.writes.value(), create: true}
	first := w.h.revision()
	x.rev, x.err = w.store.Create(ctx, x.key, []byte(x.value), asPut(w.once())...)
	w.writes.add(x)
	if errors.Is(x.err, kv.ErrExists) {
		existed := false
		for rev := first; rev <= w.h.revision() && !existed; rev++ {
			mod, _ := w.h.at(x.key, rev)
			existed = mod != 0
		}
		assert.True(w.t, existed, "%s: create of %s: %v, but it did not exist since revision %d", w.name, x.key, x.err, first)
		return nil
	}
	return x.err
}

// read returns the mod revision of a key for a conditional write, or 0.
func (w *kvWorker) read(ctx context.Context, key string) (mod int64, err error) {
	e, err := w.store.Get(ctx, key)
	if errors.Is(err, kv.ErrNotFound) {
		return 0, nil
	}
	return e.ModRevision, err
}

// checkConflict checks that a key has changed since revision mod, as a conflict tells.
func (w *kvWorker) checkConflict(what, key string, mod int64) {
	if now, next := w.h.at(key, mod); now == mod && next == 0 {
		w.t.Errorf("%s: %s of %s after revision %d conflicts, but nothing has changed it", w.name, what, key, mod)
	}
}

func (w *kvWorker) replace(ctx context.Context) error {
	x := write{what: "replace", key: w.register(), value: w.writes.value()}
	mod, err := w.read(ctx, x.key)
	if err != nil || mod == 0 {
		return err
	}
	x.after = mod
	x.rev, x.err = w.store.Replace(ctx, x.key, []byte(x.value), mod, asPut(w.once())...)
	w.writes.add(x)
	if errors.Is(x.err, kv.ErrConflict) {
		w.checkConflict("replace", x.key, mod)
		return nil
	}
	return x.err
}

func (w *kvWorker) delete(ctx context.Context) error {
	x := write{what: "delete", key: w.register()}
	mod, err := w.read(ctx, x.key)
	if err != nil || mod == 0 {
		return err
	}
	x.after = mod
	var o []kv.DeleteOption
	for _, once := range w.once() {
		o = append(o, once)
	}
	x.rev, x.err = w.store.DeleteAt(ctx, x.key, mod, o...)
	w.writes.add(x)
	if errors.Is(x.err, kv.ErrConflict) {
		w.checkConflict("delete", x.key, mod)
		return nil
	}
	return x.err
}

// update raises a counter by one.
func (w *kvWorker) update(ctx context.Context) error {
	x := write{what: "update", key: fmt.Sprint("counter/", w.rng.IntN(2)), value: w.writes.value()}
	o := []kv.UpdateOption{kv.WithUpsert()}
	for _, once := range w.once() {
		o = append(o, once)
	}
	e, err := w.store.Update(ctx, x.key, func(cur kv.Entry[[]byte]) ([]byte, error) {
		n, _ := strconv.Atoi(strings.Split(string(cur.Value), " ")[0])
		return fmt.Append(nil, n+1, " ", x.value), nil
	}, o...)
	x.rev, x.err = e.ModRevision, err
	w.writes.add(x)
	if errors.Is(err, kv.ErrConflict) {
		return nil
	}
	return err
}

func (w *kvWorker) batch(ctx context.Context) error {
	var all []write
	var ops []kv.Op
	o := asPut(w.once())
	for range 1 + w.rng.IntN(5) {
		x := write{what: "batch", key: w.register(), value: w.writes.value()}
		all, ops = append(all, x), append(ops, kv.OpPut(x.key, []byte(x.value), o...))
	}
	results, err := w.store.BatchEach(ctx, ops, kv.WithInFlight(1+w.rng.IntN(3)))
	if assert.Len(w.t, results, len(ops), "%s: results of a batch: %v", w.name, err) {
		for i, x := range all {
			x.rev, x.err = results[i].Revision, results[i].Err
			w.writes.add(x)
		}
	}
	return err
}

// errPoor means that an account does not suffice.
var errPoor = errors.New("too little money")

// transfer moves money between accounts and writes a receipt.
func (w *kvWorker) transfer(ctx context.Context) error {
	from, to, amount := w.rng.IntN(kvAccounts), w.rng.IntN(kvAccounts-1), 1+w.rng.IntN(30)
	if to >= from {
		to++
	}
	v := w.writes.value()
	x := write{what: "transfer", key: "receipt/" + v, value: v}
	x.rev, x.err = w.store.Transact(ctx, func(_ context.Context, tx *kv.Tx) error {
		for _, change := range []struct{ account, by int }{{from, -amount}, {to, amount}} {
			key := fmt.Sprint("account/", change.account)
			e, err := tx.Get(key)
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(string(e.Value))
			if err != nil {
				return err
			}
			if n += change.by; n < 0 {
				return errPoor
			}
			if err := tx.Put(key, []byte(strconv.Itoa(n))); err != nil {
				return err
			}
		}
		return tx.Put(x.key, fmt.Append(nil, x.value, " ", from, " ", to, " ", amount))
	}, w.once()...)
	w.writes.add(x)
	if errors.Is(x.err, errPoor) || errors.Is(x.err, kv.ErrConflict) {
		return nil
	}
	return x.err
}

func (w *kvWorker) run(ctx context.Context) {
	for ctx.Err() == nil {
		c := kvCalls[w.rng.IntN(len(kvCalls))]
		bounded, cancel := ctx, context.CancelFunc(func() {})
		if w.rng.IntN(5) == 0 {
			bounded, cancel = context.WithTimeout(ctx, time.Duration(w.rng.Int64N(int64(2*time.Second))))
		}
		if err := c.call(w, bounded); err != nil {
			w.s.Trace("%s: %s: %v", w.name, c.name, err)
		}
		cancel()
		time.Sleep(time.Duration(w.rng.Int64N(int64(200 * time.Millisecond))))
	}
}

// serve makes each kind of call until it succeeds.
func (w *kvWorker) serve(deadline time.Time) {
	for _, c := range kvCalls {
		for {
			err := c.call(w, w.t.Context())
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				w.t.Errorf("%s: %s does not succeed within %v after the faults: %v", w.name, c.name, kvRecovery, err)
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// checkCounters checks that each change of a counter has raised it by one.
func checkCounters(t *testing.T, h *history) {
	for key, events := range h.events {
		if !strings.HasPrefix(key, "counter/") {
			continue
		}
		for i, e := range events {
			if n, _, _ := strings.Cut(string(e.Kv.Value), " "); n != strconv.Itoa(i+1) {
				t.Errorf("change %d of %s, at %d, is to %s", i+1, key, e.Kv.ModRevision, n)
			}
		}
	}
}

// checkBank checks the accounts at each revision, and that receipts tell how they have changed.
func checkBank(t *testing.T, h *history) {
	balance := map[string]int{}
	for i := 0; i < len(h.all); {
		rev := h.all[i].Kv.ModRevision
		change, receipts := map[string]int{}, map[string]int{}
		for ; i < len(h.all) && h.all[i].Kv.ModRevision == rev; i++ {
			e := h.all[i]
			key, value := string(e.Kv.Key), string(e.Kv.Value)
			switch {
			case strings.HasPrefix(key, "account/"):
				n, _ := strconv.Atoi(value)
				change[key], balance[key] = n-balance[key], n
			case strings.HasPrefix(key, "receipt/"):
				f := strings.Fields(value)
				amount, _ := strconv.Atoi(f[3])
				receipts["account/"+f[1]], receipts["account/"+f[2]] = -amount, amount
			}
		}
		if len(receipts) == 0 && (len(change) == 0 || len(change) == kvAccounts) {
			continue // that of the first balances, if any
		}
		assert.Equal(t, receipts, change, "the changes of accounts at revision %d are not those of its receipt", rev)
		sum := 0
		for _, n := range balance {
			sum += n
		}
		assert.Equal(t, kvAccounts*kvBalance, sum, "the sum of all accounts at revision %d", rev)
	}
}

func TestSim_WritesTakeEffectAsReported(t *testing.T) {
	forSeeds(t, sim.Options{}, func(t *testing.T, s *sim.Sim) {
		h := record(s)
		all := &writes{n: map[string]int{}}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var clients []*etcdkit.Client
		var running, serving sync.WaitGroup
		var workers []*kvWorker
		for i := range kvClients {
			name := string(rune('a' + i))
			c := openUntil(t, s, name)
			clients = append(clients, c)
			for j := range kvWorkers {
				w := &kvWorker{t: t, s: s, name: fmt.Sprintf("%s/%d", name, j), store: c.KV(), h: h, writes: all}
				w.rng = s.Rand(w.name)
				workers = append(workers, w)
			}
		}
		var ops []kv.Op
		for i := range kvAccounts {
			ops = append(ops, kv.OpPut(fmt.Sprint("account/", i), []byte(strconv.Itoa(kvBalance))))
		}
		_, err := clients[0].KV().Batch(t.Context(), ops...)
		assert.NoError(t, err)
		for _, w := range workers {
			running.Go(func() { w.run(ctx) })
		}
		s.StartFaults(sim.Plan{})
		time.Sleep(kvFaultTime)
		s.StopFaults()
		began := time.Now()
		stop()
		running.Wait()
		for _, w := range workers {
			serving.Go(func() { w.serve(began.Add(kvRecovery)) })
		}
		serving.Wait()
		took := time.Since(began)
		for _, c := range clients {
			assert.NoError(t, c.Close())
		}
		time.Sleep(kvOnceExpiry)
		assert.Empty(t, s.Leases(), "leases are left behind")
		all.check(t, h)
		checkCounters(t, h)
		checkBank(t, h)
		t.Logf("recovered within %v; %d revisions; %v", took, h.revision(), all.n)
	})
}
