package sim_test

// The invariants of caches and replicas:
//
//   - Bounded: Get returns no state that was replaced before the call by more than WithMaxStaleness,
//     and the time for which a member does not notice that it is cut off.
//   - Monotonic: no reader sees an older state of a key after a newer one.
//   - Own writes: a Get after a write through Store shows that write or a later one.
//   - Linearizable: GetLinearizable returns a state of a revision between its call and its return.
//   - At least: GetAtLeast, and Get after WaitRevision, return no state that was replaced before that
//     revision.
//   - Atomic: View shows all of a transaction or nothing.
//   - Values are those that were written at the revision of their entry.
//   - Liveness: once faults stop, Get shows the last state within a bound.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/sim"
	"github.com/etcdkit/etcdkit/kv"
)

const (
	cacheClients   = 2
	cacheFaultTime = 25 * time.Second
	cacheBound     = 5 * time.Second  // WithMaxStaleness
	cacheUnnoticed = 5 * time.Second  // for which a member may serve a watch without the others
	cacheOutage    = 13 * time.Second // for which one client is cut off: longer than both
	cacheCatchUp   = 45 * time.Second // after the faults
)

// cacheKeys are the keys that readers read. Those of the first kind are deleted as well, those of the
// second are also written through Store, and x and y are always written together.
var cacheKeys = []string{"deleted0", "deleted1", "deleted2", "own0", "own1", "x", "y"}

// cacheReader is a reader of a Cache or a Replica that checks what it reads.
type cacheReader struct {
	t    *testing.T
	s    *sim.Sim
	h    *history
	name string
	rng  *rand.Rand

	reader       cache.Reader[string]
	store        kv.Typed[string]
	linearizable func(ctx context.Context, key string) (kv.Entry[string], error)
	atLeast      func(ctx context.Context, key string, rev int64) (kv.Entry[string], error)
	view         func(f func(get func(key string) (kv.Entry[string], bool))) // nil for a Cache

	seen map[string]int64 // the first revision that a read of a key may be of
	n    map[string]int
}

func (r *cacheReader) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		key := cacheKeys[r.rng.IntN(len(cacheKeys))]
		bounded, cancel := context.WithTimeout(ctx, 3*time.Second)
		switch k := r.rng.IntN(12); {
		case k == 0 && key[:1] == "o":
			if rev, err := r.store.Put(bounded, key, fmt.Sprint(r.name, n)); err == nil {
				r.seen[key] = max(r.seen[key], rev)
			}
		case k <= 2:
			first := r.h.revision()
			e, err := r.linearizable(bounded, key)
			r.check("linearizable", key, e, err, first)
		case k == 3:
			first := r.h.revision()
			e, err := r.atLeast(bounded, key, first)
			r.check("at least", key, e, err, first)
		case k == 4 && r.view != nil:
			r.view(func(get func(key string) (kv.Entry[string], bool)) {
				x, _ := get("x")
				y, _ := get("y")
				if x.ModRevision != y.ModRevision || x.Value != y.Value {
					r.t.Errorf("%s: a view shows x of revision %d and y of revision %d, which are written together", r.name, x.ModRevision, y.ModRevision)
				}
			})
			r.n["view"]++
		default:
			r.get(bounded, key)
		}
		cancel()
		time.Sleep(time.Duration(r.rng.Int64N(int64(80 * time.Millisecond))))
	}
}

// get reads from memory and checks how old that is.
func (r *cacheReader) get(ctx context.Context, key string) {
	began := time.Now()
	e, err := r.reader.Get(ctx, key)
	replaced, ok := r.check("get", key, e, err, 0)
	if age := began.Sub(replaced); ok && !replaced.IsZero() && age > cacheBound+cacheUnnoticed {
		r.t.Errorf("%s: get of %s returned revision %d, which was replaced %v before the call", r.name, key, e.ModRevision, age)
	}
}

// check checks that a read is of a revision that is not before first, nor before what was seen. It
// returns the time by which the state was replaced, if it was.
func (r *cacheReader) check(what, key string, e kv.Entry[string], err error, first int64) (replaced time.Time, ok bool) {
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		r.n[what+" failed"]++
		r.s.Trace("%s: %s of %s: %v", r.name, what, key, err)
		return time.Time{}, false
	}
	r.n[what]++
	if err != nil {
		e.ModRevision = 0
	}
	rev, replaced := r.h.since("c/"+key, e.ModRevision, max(1, first, r.seen[key]))
	if rev == 0 {
		r.t.Errorf("%s: %s of %s returned revision %d, which is older than %d; the reader had seen %d", r.name, what, key, e.ModRevision, first, r.seen[key])
		return time.Time{}, false
	}
	r.seen[key] = rev
	for _, x := range r.h.of("c/" + key) {
		if x.Kv.ModRevision == e.ModRevision && string(x.Kv.Value) != e.Value {
			r.t.Errorf("%s: %s of %s returned %q of revision %d, which wrote %q", r.name, what, key, e.Value, e.ModRevision, x.Kv.Value)
		}
	}
	return replaced, true
}

// changeCached writes what readers read, until ctx ends.
func changeCached(ctx context.Context, s *sim.Sim, store *kv.Store) {
	rng := s.Rand("writer")
	for n := 0; ctx.Err() == nil; n++ {
		value := fmt.Append(nil, "writer", n)
		var ops []kv.Op
		switch rng.IntN(4) {
		case 0:
			ops = append(ops, kv.OpDelete(fmt.Sprint("c/deleted", rng.IntN(3))))
		case 1:
			ops = append(ops, kv.OpPut(fmt.Sprint("c/deleted", rng.IntN(3)), value))
		case 2:
			ops = append(ops, kv.OpPut(fmt.Sprint("c/own", rng.IntN(2)), value))
		default:
			ops = append(ops, kv.OpPut("c/x", value), kv.OpPut("c/y", value))
		}
		bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
		if _, err := store.Batch(bounded, ops...); err != nil {
			s.Trace("writer: %v", err)
		}
		cancel()
		time.Sleep(time.Duration(rng.Int64N(int64(150 * time.Millisecond))))
	}
}

func TestSim_CachesBoundStaleness(t *testing.T) {
	forSeeds(t, sim.Options{}, func(t *testing.T, s *sim.Sim) {
		h := record(s)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		changing, stopChanges := context.WithCancel(ctx)
		defer stopChanges()
		writer := openUntil(t, s, "w")
		clients := []*etcdkit.Client{writer}
		var closers []func() error
		var readers []*cacheReader
		var changes, reading sync.WaitGroup
		for i := range cacheClients {
			client := string(rune('a' + i))
			c := openUntil(t, s, client)
			clients = append(clients, c)
			small, err := cache.Open(t.Context(), c, "c", kv.String(), cache.WithMaxStaleness(cacheBound), cache.WithMaxEntries(4))
			require.NoError(t, err)
			large, err := cache.Open(t.Context(), c, "c", kv.String(), cache.WithMaxStaleness(cacheBound))
			require.NoError(t, err)
			replica, err := cache.OpenReplica(t.Context(), c, "c", kv.String(), cache.WithMaxStaleness(cacheBound))
			require.NoError(t, err)
			closers = append(closers, small.Close, large.Close, replica.Close)
			for _, r := range []*cacheReader{
				{name: "small", reader: small, store: small.Store(), linearizable: small.GetLinearizable, atLeast: small.GetAtLeast},
				{name: "large", reader: large, store: large.Store(), linearizable: large.GetLinearizable, atLeast: large.GetAtLeast},
				{
					name: "replica", reader: replica, store: replica.Store(), linearizable: replica.GetLinearizable, view: replica.View,
					atLeast: func(ctx context.Context, key string, rev int64) (kv.Entry[string], error) {
						if err := replica.WaitRevision(ctx, rev); err != nil {
							return kv.Entry[string]{}, err
						}
						return replica.Get(ctx, key)
					},
				},
			} {
				r.t, r.s, r.h, r.name = t, s, h, client+"/"+r.name
				r.rng, r.seen, r.n = s.Rand(r.name), map[string]int64{}, map[string]int{}
				readers = append(readers, r)
				reading.Go(func() { r.run(ctx) })
			}
		}
		changes.Go(func() { changeCached(changing, s, writer.KV()) })
		s.StartFaults(sim.Plan{Interval: time.Second})
		time.Sleep(cacheFaultTime / 5)
		s.Block("a", "", true, true)
		time.Sleep(cacheOutage)
		s.Unblock("a", "")
		time.Sleep(cacheFaultTime*4/5 - cacheOutage)
		s.StopFaults()
		began := time.Now()
		stopChanges()
		changes.Wait()
		time.Sleep(10 * time.Second) // what was sent before is applied, and readers go on
		stop()
		reading.Wait()
		for _, r := range readers {
			for _, key := range cacheKeys {
				last, _ := h.at("c/"+key, h.revision())
				for {
					e, err := r.reader.Get(t.Context(), key)
					if e.ModRevision == last && (err == nil || errors.Is(err, kv.ErrNotFound)) {
						break
					}
					if time.Since(began) > cacheCatchUp {
						t.Errorf("%s: get of %s returns revision %d, %v, %v after the faults; the last one is %d", r.name, key, e.ModRevision, err, cacheCatchUp, last)
						break
					}
					time.Sleep(100 * time.Millisecond)
				}
				first := h.revision()
				e, err := r.linearizable(t.Context(), key)
				r.check("linearizable", key, e, err, first)
			}
		}
		for _, closeCache := range closers {
			assert.NoError(t, closeCache())
		}
		for _, c := range clients {
			assert.NoError(t, c.Close())
		}
		sum := map[string]int{}
		for _, r := range readers {
			for what, n := range r.n {
				sum[what] += n
			}
		}
		t.Logf("%d revisions; reads: %v", h.revision(), sum)
	})
}
