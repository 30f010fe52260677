package sim_test

// The invariants of lease:
//
//   - Deadline: when a lease ends at the server, the context and Err of its session have ended.
//   - Guards: a write with the guard of a session takes effect only while the lease exists.
//   - Self-healing: a Key comes back with its latest value within a bound once faults stop, however
//     often it was deleted, overwritten or lost with its lease.
//   - Nothing is left behind: a key that was closed does not come back, and after the clients are
//     closed, and leases that could not be revoked have expired, there are no keys and no leases.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/sim"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
)

const (
	leaseClients   = 3
	leaseWorkers   = 2 // of each client
	leaseKeys      = 3 // of each client
	leaseFaultTime = 30 * time.Second
	leaseTTL       = 2 * time.Second  // of the sessions of the first client; those of the next have leaseTTLStep more
	leaseTTLStep   = 4 * time.Second  // all have up to 2 s more
	leaseHeal      = 30 * time.Second // until keys are there after the faults
)

// leases checks sessions against the ends of their leases. It observes commits.
type leases struct {
	t *testing.T

	mu       sync.Mutex
	sessions map[string]*lease.Session // by the key that each has on its lease
	ended    map[string]int64          // revisions
	guarded  int
}

// observe is called when the key of a session has disappeared, which only its lease deletes, and
// when a guarded write takes effect.
func (l *leases) observe(e *mvccpb.Event) {
	key := string(e.Kv.Key)
	l.mu.Lock()
	defer l.mu.Unlock()
	if name, ok := strings.CutPrefix(key, "guarded/"); ok {
		l.guarded++
		if rev := l.ended["session/"+name]; rev != 0 {
			l.t.Errorf("%s was written at %d under the guard of a session whose lease ended at %d", key, e.Kv.ModRevision, rev)
		}
		return
	}
	s := l.sessions[key]
	if s == nil || e.Type != mvccpb.Event_DELETE {
		return
	}
	l.ended[key] = e.Kv.ModRevision
	select {
	case <-s.Context().Done():
	default:
		l.t.Errorf("the lease of %s ended at %d, and the context of its session has not; its deadline is in %v", key, e.Kv.ModRevision, time.Until(s.Deadline()))
	}
	if s.Err() == nil {
		l.t.Errorf("the lease of %s ended at %d, and its session is valid for %v", key, e.Kv.ModRevision, time.Until(s.Deadline()))
	}
}

// audit checks that valid sessions have leases, also those that have no keys, until ctx ends.
func (l *leases) audit(ctx context.Context, s *sim.Sim) {
	for ctx.Err() == nil {
		exist := s.Leases()
		l.mu.Lock()
		for key, session := range l.sessions {
			if !slices.Contains(exist, int64(session.ID())) && session.Err() == nil {
				l.t.Errorf("the lease of %s has ended, and its session is valid for %v", key, time.Until(session.Deadline()))
			}
		}
		l.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
}

// sessionWorker opens sessions, one after the other, and uses them.
type sessionWorker struct {
	s        *sim.Sim
	name     string
	rng      *rand.Rand
	c        *etcdkit.Client
	leases   *leases
	ttl      time.Duration
	opened   int
	survived int // sessions that were valid until they were closed
}

func (w *sessionWorker) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		session, err := w.c.Leases().OpenSession(ctx, lease.WithTTL(w.ttl+time.Duration(w.rng.IntN(3))*time.Second))
		if err != nil {
			w.s.Trace("%s: open: %v", w.name, err)
			time.Sleep(time.Duration(w.rng.Int64N(int64(500 * time.Millisecond))))
			continue
		}
		w.opened++
		name := fmt.Sprintf("%s-%d", w.name, n)
		w.leases.mu.Lock()
		w.leases.sessions["session/"+name] = session
		w.leases.mu.Unlock()
		w.use(session, name, time.Now().Add(time.Duration(w.rng.Int64N(int64(15*time.Second)))))
		w.s.Trace("%s: close of %s: %v", w.name, name, session.Err())
		if session.Err() == nil {
			w.survived++
		}
		if w.rng.IntN(4) == 0 {
			session.Orphan()
		} else if err := session.Close(); err != nil {
			w.s.Trace("%s: close of %s: %v", w.name, name, err)
		}
	}
}

// use writes a key on the lease, and guarded ones, until a time or the end of the session.
func (w *sessionWorker) use(session *lease.Session, name string, until time.Time) {
	ctx := session.Context()
	_, err := w.c.KV().Put(ctx, "session/"+name, nil, kv.WithLease(session.ID()))
	for err == nil && time.Now().Before(until) && ctx.Err() == nil {
		// A context of its own, so that the guard alone refuses what is late.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		if _, err := w.c.KV().Put(bounded, "guarded/"+name, nil, kv.WithGuard(session)); err != nil {
			w.s.Trace("%s: guarded write of %s: %v", w.name, name, err)
		}
		cancel()
		time.Sleep(time.Duration(w.rng.Int64N(int64(time.Second))))
	}
}

// attack deletes and overwrites keys, and revokes the leases that they are on.
func attack(ctx context.Context, s *sim.Sim, raw *clientv3.Client, keys []string) {
	rng := s.Rand("attack")
	for ctx.Err() == nil {
		key := keys[rng.IntN(len(keys))]
		bounded, cancel := context.WithTimeout(ctx, time.Second)
		var err error
		what := rng.IntN(4)
		switch what {
		case 0, 1:
			_, err = raw.Delete(bounded, key)
		case 2:
			_, err = raw.Put(bounded, key, "broken", clientv3.WithIgnoreLease())
		default:
			var got *clientv3.GetResponse
			if got, err = raw.Get(bounded, key); err == nil && len(got.Kvs) > 0 && got.Kvs[0].Lease != 0 {
				_, err = raw.Revoke(bounded, clientv3.LeaseID(got.Kvs[0].Lease))
			}
		}
		cancel()
		s.Trace("attack %d on %s: %v", what, key, err)
		time.Sleep(time.Duration(rng.Int64N(int64(2 * time.Second))))
	}
}

// keepKey opens a key and changes its value until ctx ends. It returns the open key and its value. If
// brief is set, it closes the key often, and may return nil: then the key is closed.
func keepKey(ctx context.Context, t *testing.T, s *sim.Sim, c *etcdkit.Client, key string, brief bool) (k *lease.Key, value string) {
	t.Helper()
	rng := s.Rand(key)
	var deadline time.Time // after ctx has ended
	for n := 0; ctx.Err() == nil || k == nil && !brief; n++ {
		switch now := time.Now(); {
		case ctx.Err() == nil:
		case deadline.IsZero():
			deadline = now.Add(leaseHeal)
		case now.After(deadline):
			t.Errorf("%s cannot be opened %v after the faults", key, leaseHeal)
			return nil, ""
		}
		value = strconv.Itoa(n)
		var err error
		unbounded := context.WithoutCancel(ctx)
		switch {
		case k == nil:
			k, err = c.Leases().OpenKey(unbounded, key, []byte(value), lease.WithKeyTTL(lockTTL))
		case rng.IntN(10) == 0, brief && rng.IntN(2) == 0:
			err, k = k.Close(), nil
		default:
			err = k.Update(unbounded, []byte(value))
		}
		if err != nil {
			s.Trace("%s: %v", key, err)
		}
		time.Sleep(time.Duration(rng.Int64N(int64(2 * time.Second))))
	}
	return k, value
}

func TestSim_LeasesEndLate(t *testing.T) {
	forSeeds(t, sim.Options{}, func(t *testing.T, s *sim.Sim) {
		l := &leases{t: t, sessions: map[string]*lease.Session{}, ended: map[string]int64{}}
		s.Observe(l.observe)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var clients []*etcdkit.Client
		var workers []*sessionWorker
		var running, auditing sync.WaitGroup
		auditing.Go(func() { l.audit(ctx, s) })
		for i := range leaseClients {
			name := string(rune('a' + i))
			c := openUntil(t, s, name)
			clients = append(clients, c)
			for j := range leaseWorkers {
				w := &sessionWorker{s: s, name: fmt.Sprint(name, j), c: c, leases: l, ttl: leaseTTL + time.Duration(i)*leaseTTLStep}
				w.rng = s.Rand(w.name)
				workers = append(workers, w)
				running.Go(func() { w.run(ctx) })
			}
		}
		kinds := append(sim.AllKinds(), slices.Repeat([]sim.Kind{sim.LateAnswers}, 4)...)
		s.StartFaults(sim.Plan{Kinds: kinds, Interval: time.Second})
		time.Sleep(leaseFaultTime)
		s.StopFaults()
		stop()
		running.Wait()
		auditing.Wait()
		for _, c := range clients {
			assert.NoError(t, c.Close())
		}
		time.Sleep(leaseTTL + leaseClients*leaseTTLStep + 10*time.Second)
		for key := range s.Keys() {
			if !strings.HasPrefix(key, "guarded/") {
				t.Errorf("%s is left behind", key)
			}
		}
		assert.Empty(t, s.Leases(), "leases are left behind")
		opened, survived := 0, 0
		for _, w := range workers {
			opened += w.opened
			survived += w.survived
		}
		t.Logf("%d sessions, of which %d were valid until they were closed; %d leases ended; %d guarded writes", opened, survived, len(l.ended), l.guarded)
		assert.Positive(t, survived)
		assert.Positive(t, l.guarded)
	})
}

func TestSim_KeysComeBack(t *testing.T) {
	forSeeds(t, sim.Options{}, func(t *testing.T, s *sim.Sim) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var clients []*etcdkit.Client
		var keys []string
		var attacking, running sync.WaitGroup
		var mu sync.Mutex
		open, values := map[string]*lease.Key{}, map[string]string{}
		for i := range leaseClients {
			name := string(rune('a' + i))
			c := openUntil(t, s, name)
			clients = append(clients, c)
			for j := range leaseKeys {
				key := fmt.Sprintf("key/%s%d", name, j)
				keys = append(keys, key)
				running.Go(func() {
					k, value := keepKey(ctx, t, s, c, key, j == 0)
					mu.Lock()
					defer mu.Unlock()
					if k != nil {
						open[key], values[key] = k, value
					}
				})
			}
		}
		raw, err := s.Raw("r")
		assert.NoError(t, err)
		attacking.Go(func() { attack(ctx, s, raw, keys) })
		s.StartFaults(sim.Plan{Interval: time.Second})
		time.Sleep(leaseFaultTime)
		s.StopFaults()
		began := time.Now()
		stop()
		attacking.Wait()
		running.Wait()
		missing := func() (out []string) {
			now := s.Keys()
			for _, key := range keys {
				if v, ok := now[key]; ok && open[key] == nil {
					out = append(out, fmt.Sprintf("%s is %q, and closed", key, v))
				}
			}
			for key, k := range open {
				if v, ok := now[key]; !ok || v != values[key] || k.State() != lease.Alive {
					out = append(out, fmt.Sprintf("%s is %q, %v", key, v, k.State()))
				}
			}
			return out
		}
		heal := func(began time.Time) time.Duration {
			for len(missing()) > 0 && time.Since(began) < leaseHeal {
				time.Sleep(50 * time.Millisecond)
			}
			return time.Since(began)
		}
		took := heal(began)
		assert.Empty(t, missing(), "keys that are not as they should be %v after the faults", leaseHeal)
		for key, k := range open {
			values[key] = "last " + key
			assert.NoError(t, k.Update(t.Context(), []byte(values[key])))
			_, err := raw.Delete(t.Context(), key)
			assert.NoError(t, err)
		}
		heal(time.Now())
		assert.Empty(t, missing(), "keys that are not as they should be %v after they were deleted", leaseHeal)
		time.Sleep(2 * lockTTL)
		assert.Empty(t, missing(), "keys that did not stay")
		closed := clients[0]
		for key, k := range open {
			if strings.HasPrefix(key, "key/a") {
				assert.NoError(t, k.Close())
			}
		}
		time.Sleep(time.Second)
		for key := range s.Keys() {
			assert.False(t, strings.HasPrefix(key, "key/a"), "%s is there after it was closed", key)
		}
		assert.NoError(t, closed.Close())
		for _, c := range clients[1:] {
			assert.NoError(t, c.Close())
		}
		assert.NoError(t, raw.Close())
		time.Sleep(lockTTL + 10*time.Second)
		assert.Empty(t, s.Keys(), "keys are left behind")
		assert.Empty(t, s.Leases(), "leases are left behind")
		t.Logf("%d keys came back within %v", len(open), took)
	})
}
