package sim_test

// The invariants of read-write mutexes, semaphores, and locks of several mutexes:
//
//   - Exclusion: when a caller acquires, the weights of all valid holds, as far as their Err tells, do
//     not exceed the capacity. So no writer is beside anyone, a semaphore never has more than n
//     permits, and of two that lock overlapping sets of mutexes one waits.
//   - Rising tokens: the token of each valid writer, and of each mutex of a set, is higher than those
//     of all earlier ones.
//   - Fencing: a write with a guard takes effect before any write of a later hold that excludes its own,
//     and not after the release of a read lock or of a permit has returned.
//   - Liveness: once faults stop, every waiter acquires within a bound, whatever its weight.
//   - Nothing is left behind, as in lock_test.go.

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/sim"
	"github.com/etcdkit/etcdkit/lock"
)

const (
	semaphorePermits = 3
	writerWeight     = 1000 // more than there are readers
)

// share is a hold of a part of a lock.
type share struct {
	permit

	of       *sharing
	weight   int
	tokens   map[string]int64 // of what is held exclusively, by name
	number   int64            // holds are numbered in the order in which they were acquired
	released bool             // guarded by the mu of the lock
}

// Token returns the number of the hold, which its writes contain.
func (h *share) Token() int64 { return h.number }

// Release releases the hold. A mutex may have been handed on within its process. Then the guard holds
// until the next turn is taken.
func (h *share) Release(ctx context.Context) error {
	err := h.permit.Release(ctx)
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	h.released = err == nil && h.tokens == nil
	return err
}

// sharing checks the holds of one lock that several may hold.
type sharing struct {
	t        *testing.T
	s        *sim.Sim
	name     string
	capacity int

	mu       sync.Mutex
	all      []*share
	holds    map[string]*share // the last of each owner
	tokens   map[string]int64  // the highest ones
	written  map[int]int64     // the last hold of each weight that has written
	acquired map[int]int       // by weight
	together int               // the most at one time
	writes   int
}

func newSharing(t *testing.T, s *sim.Sim, name string, capacity int) *sharing {
	t.Helper()
	l := &sharing{
		t: t, s: s, name: name, capacity: capacity,
		holds: map[string]*share{}, tokens: map[string]int64{}, written: map[int]int64{}, acquired: map[int]int{},
	}
	s.Observe(l.observe)
	return l
}

// fenced returns the key that holders write their numbers to.
func (l *sharing) fenced() string { return "fenced-" + l.name }

// acquire records a hold.
func (l *sharing) acquire(owner string, h held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := h.(*share) //nolint:forcetypeassert // of this lock
	l.all = append(l.all, x)
	x.number = int64(len(l.all))
	if err := x.Err(); err != nil {
		l.s.Trace("%s: %s got %d of weight %d, and has lost it: %v", l.name, owner, x.number, x.weight, err)
		return
	}
	l.s.Trace("%s: %s acquired %d of weight %d, tokens %v", l.name, owner, x.number, x.weight, x.tokens)
	l.holds[owner] = x
	l.acquired[x.weight]++
	sum, numbers := 0, []int64{}
	for _, o := range l.holds {
		if o.Err() == nil {
			sum += o.weight
			numbers = append(numbers, o.number)
		}
	}
	if sum > l.capacity {
		slices.Sort(numbers)
		l.t.Errorf("%s: %s acquired %d, and then %v hold %d of %d", l.name, owner, x.number, numbers, sum, l.capacity)
	}
	l.together = max(l.together, len(numbers))
	for name, token := range x.tokens {
		if token <= l.tokens[name] {
			l.t.Errorf("%s: token %d of %s after %d", name, token, owner, l.tokens[name])
		}
		l.tokens[name] = max(l.tokens[name], token)
	}
}

// observe checks the writes of holders.
func (l *sharing) observe(e *mvccpb.Event) {
	if string(e.Kv.Key) != l.fenced() {
		return
	}
	number, err := strconv.ParseInt(string(e.Kv.Value), 10, 64)
	if !assert.NoError(l.t, err) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.all[number-1]
	if x.released {
		l.t.Errorf("%s: a write of %d took effect at %d, after its release", l.name, number, e.Kv.ModRevision)
	}
	for weight, last := range l.written {
		if last > number && weight+x.weight > l.capacity {
			l.t.Errorf("%s: a write of %d took effect at %d, after one of %d, which excludes it", l.name, number, e.Kv.ModRevision, last)
		}
	}
	l.written[x.weight] = max(l.written[x.weight], number)
	l.writes++
}

// read acquires a read lock.
func (l *sharing) read(ctx context.Context, c *etcdkit.Client, w *lockWorker) (held, error) {
	m := c.Locks().RWMutex(l.name)
	acquire := m.RLock
	if w.rng.IntN(4) == 0 {
		acquire = m.TryRLock
	}
	p, err := acquire(ctx)
	if err != nil {
		return nil, err
	}
	return &share{permit: p, of: l, weight: 1}, nil
}

// write acquires a write lock.
func (l *sharing) write(ctx context.Context, c *etcdkit.Client, w *lockWorker) (held, error) {
	m := c.Locks().RWMutex(l.name)
	acquire := m.Lock
	if w.rng.IntN(4) == 0 {
		acquire = m.TryLock
	}
	h, err := acquire(ctx)
	if err != nil {
		return nil, err
	}
	return &share{permit: h, of: l, weight: l.capacity, tokens: map[string]int64{l.name: h.Token()}}, nil
}

// permit acquires a permit of any weight.
func (l *sharing) permit(ctx context.Context, c *etcdkit.Client, w *lockWorker) (held, error) {
	m, weight := c.Locks().Semaphore(l.name, l.capacity), 1+w.rng.IntN(l.capacity)
	acquire := func(ctx context.Context) (*lock.Permit, error) { return m.AcquireN(ctx, weight) }
	if w.rng.IntN(4) == 0 {
		weight, acquire = 1, m.TryAcquire
	}
	p, err := acquire(ctx)
	if err != nil {
		return nil, err
	}
	return &share{permit: p, of: l, weight: weight}, nil
}

// several locks two of three mutexes, in any order, so that no two sets are disjoint.
func (l *sharing) several(ctx context.Context, c *etcdkit.Client, w *lockWorker) (held, error) {
	names := []string{"one", "two", "three"}
	w.rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	first, second := c.Locks().Mutex(names[0]), c.Locks().Mutex(names[1])
	h, err := c.Locks().Multi(first, second).Lock(ctx)
	if err != nil {
		return nil, err
	}
	return &share{permit: h, of: l, weight: l.capacity, tokens: map[string]int64{names[0]: h.Token(first), names[1]: h.Token(second)}}, nil
}

func TestSim_SharedLocksExcludeAndServe(t *testing.T) {
	forSeeds(t, sim.Options{}, func(t *testing.T, s *sim.Sim) {
		rw := newSharing(t, s, "rw", writerWeight)
		semaphore := newSharing(t, s, "semaphore", semaphorePermits)
		several := newSharing(t, s, "several", 1)
		took := serveWorkers(t, s, []lockKind{
			{"reader", rw, rw.fenced(), rw.read},
			{"writer", rw, rw.fenced(), rw.write},
			{"permit", semaphore, semaphore.fenced(), semaphore.permit},
			{"several", several, several.fenced(), several.several},
		})
		t.Logf("served within %v", took)
		for _, l := range []*sharing{rw, semaphore, several} {
			t.Logf("%s: acquired %v times by weight, %d together at most, %d fenced writes", l.name, l.acquired, l.together, l.writes)
			assert.Positive(t, l.writes)
		}
		assert.Len(t, rw.acquired, 2)
		assert.Greater(t, rw.together, 1)
		assert.Len(t, semaphore.acquired, semaphorePermits)
		assert.Equal(t, 1, several.together)
	})
}
