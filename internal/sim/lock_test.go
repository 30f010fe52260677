package sim_test

// The invariants of locks and elections:
//
//   - Mutual exclusion: when a caller acquires a mutex or an election, no other hold of it is valid,
//     as far as Err of these holds tells.
//   - Rising tokens: the token of each valid hold is higher than those of all earlier ones.
//   - Fencing: writes with a guard take effect in the order of the tokens, whatever was delayed.
//   - Order: without faults, the callers of one process acquire in the order in which they began to
//     wait, and so do processes.
//   - Liveness: once faults stop, every waiter acquires within a bound.
//   - Nothing is left behind: after the clients are closed, and the leases of those that were killed
//     have expired, there are no keys of locks and no leases.

import (
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
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/sim"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

const (
	lockClients  = 4
	lockWorkers  = 2                // of each client
	lockTTL      = 5 * time.Second  // of sessions
	faultTime    = 40 * time.Second // simulated
	serveTimeout = 40 * time.Second // until every waiter has acquired after the faults
)

// permit is a hold, which may be shared.
type permit interface {
	Err() error
	Guard() kv.Guard
	Context() context.Context
	Release(ctx context.Context) error
}

// held is a hold that has a token.
type held interface {
	permit
	Token() int64
}

// holdChecker checks the holds of one lock.
type holdChecker interface {
	// acquire records a hold of an owner, which has released the one before.
	acquire(owner string, h held)
}

// exclusion checks the holds of a lock that is held exclusively.
type exclusion struct {
	t    *testing.T
	s    *sim.Sim
	name string

	mu       sync.Mutex
	holds    map[string]held // by owner
	token    int64           // the highest
	acquired int
}

// acquire records a hold.
func (e *exclusion) acquire(owner string, h held) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := h.Err(); err != nil {
		e.s.Trace("%s: %s got token %d, and has lost it: %v", owner, e.name, h.Token(), err)
		return
	}
	e.s.Trace("%s: %s acquired with token %d", owner, e.name, h.Token())
	for other, o := range e.holds {
		if o.Err() == nil {
			e.t.Errorf("%s: %s acquired with token %d while %s holds it with token %d", e.name, owner, h.Token(), other, o.Token())
		}
	}
	if h.Token() <= e.token {
		e.t.Errorf("%s: token %d of %s after %d", e.name, h.Token(), owner, e.token)
	}
	e.token = max(e.token, h.Token())
	e.holds[owner] = h
	e.acquired++
}

// fence checks the values of a key that holders write their tokens to. It observes commits.
type fence struct {
	t    *testing.T
	key  string
	last int64
	n    int
}

func (f *fence) observe(e *mvccpb.Event) {
	if string(e.Kv.Key) != f.key || e.Type != mvccpb.Event_PUT {
		return
	}
	token, err := strconv.ParseInt(string(e.Kv.Value), 10, 64)
	if err != nil || token < f.last {
		f.t.Errorf("%s: a write with token %q took effect after one with %d", f.key, e.Kv.Value, f.last)
	}
	f.last = max(f.last, token)
	f.n++
}

// openUntil opens a client while faults occur.
func openUntil(t *testing.T, s *sim.Sim, name string) *etcdkit.Client {
	t.Helper()
	cfg := s.Config()
	cfg.SessionTTL = etcdkit.Duration(lockTTL)
	c, err := s.OpenLazy(name, cfg)
	require.NoError(t, err)
	return c
}

// lockWorker acquires, writes and releases until stop is closed, and then once more.
type lockWorker struct {
	t       *testing.T
	s       *sim.Sim
	name    string
	rng     *rand.Rand
	acquire func(ctx context.Context) (held, error)
	check   holdChecker
	fenced  string // key
	store   *kv.Store
}

func (w *lockWorker) run(ctx context.Context, stop <-chan struct{}, served func()) {
	for {
		last := false
		select {
		case <-stop:
			last = true
		default:
		}
		if ctx.Err() != nil {
			return
		}
		bounded, cancel := ctx, context.CancelFunc(func() {})
		if !last && w.rng.IntN(4) == 0 {
			bounded, cancel = context.WithTimeout(ctx, time.Duration(w.rng.Int64N(int64(5*time.Second))))
		}
		h, err := w.acquire(bounded)
		cancel()
		if err != nil {
			w.s.Trace("%s: acquire: %v", w.name, err)
			time.Sleep(time.Duration(w.rng.Int64N(int64(100 * time.Millisecond))))
			continue
		}
		w.check.acquire(w.name, h)
		w.use(ctx, h)
		if last {
			served()
			return
		}
		time.Sleep(time.Duration(w.rng.Int64N(int64(300 * time.Millisecond))))
	}
}

// use writes under the hold and releases it.
func (w *lockWorker) use(ctx context.Context, h held) {
	for range w.rng.IntN(3) {
		// A write that was given up may take effect under a later hold, unless its guard prevents it.
		bounded, cancel := context.WithTimeout(ctx, time.Duration(w.rng.Int64N(int64(3*time.Second))))
		_, err := w.store.Put(bounded, w.fenced, []byte(strconv.FormatInt(h.Token(), 10)), kv.WithGuard(h))
		cancel()
		if errors.Is(err, kv.ErrGuard) && h.Err() == nil {
			w.s.Trace("%s: the guard of token %d failed before its loss was noticed", w.name, h.Token())
		}
		time.Sleep(time.Duration(w.rng.Int64N(int64(100 * time.Millisecond))))
	}
	bounded, cancel := context.WithTimeout(ctx, time.Duration(1+w.rng.Int64N(int64(3*time.Second))))
	defer cancel()
	if err := h.Release(bounded); err != nil {
		w.s.Trace("%s: release: %v", w.name, err)
	}
}

// lockKind is a kind of lock that workers acquire.
type lockKind struct {
	name    string
	check   holdChecker
	fenced  string // key
	acquire func(ctx context.Context, c *etcdkit.Client, w *lockWorker) (held, error)
}

// serveWorkers runs workers of each kind in several processes, one of which is killed, while faults
// occur. It checks that all waiters are served after the faults, returns how long that took, and
// checks that nothing is left behind.
func serveWorkers(t *testing.T, s *sim.Sim, kinds []lockKind) (took time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop := make(chan struct{})
	var workers sync.WaitGroup
	var mu sync.Mutex
	served := map[string]bool{}
	var clients []*etcdkit.Client
	victims, killWorkers := context.WithCancel(ctx)
	defer killWorkers()
	for i := range lockClients + 1 {
		name, ctx, kill := string(rune('a'+i)), ctx, i == lockClients
		if kill { // its process ends in the middle
			name, ctx = "x", victims
		}
		c := openUntil(t, s, name)
		clients = append(clients, c)
		for j := range lockWorkers {
			for _, kind := range kinds {
				w := &lockWorker{t: t, s: s, name: fmt.Sprintf("%s/%d/%s", name, j, kind.name), store: c.KV()}
				w.rng, w.check, w.fenced = s.Rand(w.name), kind.check, kind.fenced
				w.acquire = func(ctx context.Context) (held, error) { return kind.acquire(ctx, c, w) }
				workers.Go(func() {
					w.run(ctx, stop, func() {
						mu.Lock()
						defer mu.Unlock()
						served[w.name] = true
					})
				})
			}
		}
	}
	s.StartFaults(sim.Plan{})
	time.Sleep(faultTime / 2)
	s.Kill("x")
	killWorkers()
	time.Sleep(faultTime / 2)
	s.StopFaults()
	close(stop)
	began := time.Now()
	done := make(chan struct{})
	go func() {
		workers.Wait()
		close(done)
	}()
	timeout := time.NewTimer(serveTimeout)
	defer timeout.Stop()
	select {
	case <-done:
		s.Trace("all waiters were served after %v", time.Since(began))
	case <-timeout.C:
		mu.Lock()
		t.Errorf("%d of %d waiters were served within %v after the faults", len(served), lockClients*lockWorkers*len(kinds), serveTimeout)
		mu.Unlock()
		cancel()
		<-done
	}
	took = time.Since(began)
	for i, c := range clients {
		if err := c.Close(); i < lockClients {
			assert.NoError(t, err)
		}
	}
	nothingLeft(t, s)
	return took
}

func TestSim_LocksExcludeAndServe(t *testing.T) {
	forSeeds(t, sim.Options{}, func(t *testing.T, s *sim.Sim) {
		fenced := &fence{t: t, key: "fenced"}
		s.Observe(fenced.observe)
		mutex := &exclusion{t: t, s: s, name: "mutex", holds: map[string]held{}}
		election := &exclusion{t: t, s: s, name: "election", holds: map[string]held{}}
		fencedElection := &fence{t: t, key: "fenced-election"}
		s.Observe(fencedElection.observe)
		took := serveWorkers(t, s, []lockKind{
			{"mutex", mutex, fenced.key, func(ctx context.Context, c *etcdkit.Client, _ *lockWorker) (held, error) {
				return held1(c.Locks().Mutex("m").Lock(ctx))
			}},
			{"election", election, fencedElection.key, func(ctx context.Context, c *etcdkit.Client, w *lockWorker) (held, error) {
				return held1(c.Locks().Election("e").Campaign(ctx, w.name))
			}},
		})
		t.Logf("served within %v; acquired %d and %d times, fenced writes %d and %d", took, mutex.acquired, election.acquired, fenced.n, fencedElection.n)
		assert.Positive(t, mutex.acquired)
		assert.Positive(t, election.acquired)
	})
}

// held1 makes the results of an acquisition those of an interface.
func held1[H held](h H, err error) (held, error) {
	if err != nil {
		return nil, err
	}
	return h, nil
}

// nothingLeft checks that no keys of locks and no leases remain once leases have expired.
func nothingLeft(t *testing.T, s *sim.Sim) {
	t.Helper()
	time.Sleep(lockTTL + 10*time.Second)
	for key := range s.Keys() {
		if strings.HasPrefix(key, "locks/") || strings.HasPrefix(key, "elections/") {
			t.Errorf("%s is left behind", key)
		}
	}
	assert.Empty(t, s.Leases(), "leases are left behind")
}

func TestSim_LocksServeInOrder(t *testing.T) {
	forSeeds(t, sim.Options{}, func(t *testing.T, s *sim.Sim) {
		const waiters = 18
		var clients []*etcdkit.Client
		for i := range 7 {
			clients = append(clients, openUntil(t, s, string(rune('a'+i))))
		}
		first, err := clients[6].Locks().Mutex("m").Lock(t.Context())
		require.NoError(t, err)
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		rng := s.Rand("clients")
		process := map[int]int{}
		for i := range waiters {
			process[i] = rng.IntN(6)
			if i < 6 {
				process[i] = i
			}
			m := clients[process[i]].Locks().Mutex("m")
			wg.Go(func() {
				h, err := m.Lock(t.Context())
				if !assert.NoError(t, err) {
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				time.Sleep(10 * time.Millisecond)
				assert.NoError(t, h.Release(t.Context()))
			})
			time.Sleep(50 * time.Millisecond)
		}
		require.NoError(t, first.Release(t.Context()))
		wg.Wait()
		last, processes := map[int]int{}, []int{}
		for _, n := range order {
			p := process[n]
			before, seen := last[p]
			if seen && before > n {
				t.Errorf("%d acquired before %d, of the same process: %v", before, n, order)
			}
			if !seen {
				processes = append(processes, p)
			}
			last[p] = n
		}
		assert.IsIncreasing(t, processes, "the processes acquired in another order than that of their first waiters: %v", order)
		for _, c := range clients {
			assert.NoError(t, c.Close())
		}
		nothingLeft(t, s)
	})
}

var _ held = (*lock.Held)(nil)
