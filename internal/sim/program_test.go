package sim_test

// The invariants of a program that uses every package over one client and is closed while faults
// occur:
//
//   - Close is bounded: each part returns from Close within the time that is documented, whether the
//     parts are closed one after the other, as documented, or the client alone is.
//   - Calls end: what the program was waiting for returns when the client is closed. A listing ends
//     with its context.
//   - Callbacks end: no callback of a part runs after Close of the part, or of the client.
//   - Nothing is left behind: no goroutine outlives Close, which the bubble of the test checks. If
//     Close of the client returns no error, the keys of its session are gone. Once leases have expired,
//     only what the program has stored is left, with no lease.
//
// In two of three cases the program is cut off before it is closed: etcd does not answer, or cannot be
// reached. Tokens expire within seconds, and the clocks of the members run by up to a tenth faster or
// slower than those of the clients.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/sim"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/lock"
	"github.com/etcdkit/etcdkit/watch"
)

const (
	programRunTime   = 20 * time.Second // with faults, until the program is closed
	programClose     = 7 * time.Second  // of each part: about 6 s are documented for a client, 5 s for others
	programCut       = 20 * time.Second // for which it is cut off, or until it is closed
	programCallback  = 200 * time.Millisecond
	programLate      = 100 * time.Millisecond // after the end of its context
	programEnd       = 2 * time.Second        // until calls have returned after Close
	programExpiry    = 75 * time.Second       // after which the leases of WithOnce are gone
	programPasswords = "secret"
)

// stored are the prefixes of what the program stores.
var stored = []string{"data/", "app/", "checkpoint"}

// program uses every package over one client.
type program struct {
	t    *testing.T
	s    *sim.Sim
	name string
	c    *etcdkit.Client

	key      *lease.Key
	sub      *watch.Subscription
	cache    *cache.Cache[[]byte]
	replica  *cache.Replica[[]byte]
	source   *config.Source
	registry *discovery.Registry

	// closing is held by the one that closes a registration or the registry. Concurrent calls of Close
	// wait for a sync.Once, and meanwhile the time of the bubble stands still.
	closing chan struct{}
	session atomic.Pointer[lease.Session] // the shared one, with a key that has its ID
	running sync.WaitGroup
	calls   atomic.Int64             // that have succeeded
	inside  map[string]*atomic.Int64 // callbacks that run, by part
}

// callback returns what a callback of a part does. It takes a while.
func (p *program) callback(part string) func() {
	n, rng := &atomic.Int64{}, p.s.Rand(p.name+part)
	p.inside[part] = n
	return func() {
		n.Add(1)
		defer n.Add(-1)
		p.calls.Add(1)
		time.Sleep(time.Duration(rng.Int64N(int64(programCallback))))
	}
}

// ended checks that no callback of a part runs after Close.
func (p *program) ended(part, closed string) {
	if n := p.inside[part]; n != nil && n.Load() > 0 {
		p.t.Errorf("%s: a callback of the %s runs after Close of the %s", p.name, part, closed)
	}
}

// open opens all parts, before faults occur.
func (p *program) open(ctx context.Context) {
	t, c := p.t, p.c
	var err error
	p.key, err = c.Leases().OpenKey(ctx, "alive/"+p.name, nil, lease.WithKeyTTL(lockTTL))
	require.NoError(t, err)
	p.cache, err = cache.Open(ctx, c, "data", kv.Bytes())
	require.NoError(t, err)
	p.replica, err = cache.OpenReplica(ctx, c, "data", kv.Bytes())
	require.NoError(t, err)
	p.source, err = config.Open(ctx, c, "app")
	require.NoError(t, err)
	level, err := config.Bind(p.source, "level", config.WithDefault(0))
	require.NoError(t, err)
	onLevel := p.callback("source")
	level.Follow(func(int) { onLevel() })
	p.registry, err = discovery.New(c, discovery.WithTTL(lockTTL))
	require.NoError(t, err)
	_, err = p.registry.Register(ctx, discovery.Instance{Service: "orders", ID: p.name, Host: p.name, Port: 1})
	require.NoError(t, err)
	view, err := p.registry.OpenService(ctx, "orders")
	require.NoError(t, err)
	onView := p.callback("registry")
	view.Follow(func([]discovery.Instance) { onView() })
	onBatch := p.callback("subscription")
	p.sub, err = c.Watcher().Subscribe(watch.Prefix("data/"), func(context.Context, watch.Batch) error {
		onBatch()
		return nil
	}, watch.WithSnapshot())
	require.NoError(t, err)

	p.repeat("kv", func(ctx context.Context, rng *rand.Rand) error {
		key := fmt.Sprint("data/", rng.IntN(5))
		switch rng.IntN(4) {
		case 0:
			_, err := c.KV().Put(ctx, key, nil, kv.WithOnce())
			return err
		case 1:
			_, err := c.KV().Put(ctx, fmt.Sprint("ttl/", rng.IntN(3)), nil, kv.WithTTL(lockTTL))
			return err
		case 2:
			_, err := p.cache.GetLinearizable(ctx, key)
			return err
		default:
			_, err := p.replica.GetLinearizable(ctx, key)
			return err
		}
	})
	p.repeat("list", func(ctx context.Context, _ *rand.Rand) error { return p.list(ctx) })
	p.repeat("lock", func(ctx context.Context, _ *rand.Rand) error {
		h, err := c.Locks().Mutex("m").Lock(ctx)
		if err != nil {
			return err
		}
		_, err = c.KV().Put(ctx, "data/guarded", nil, kv.WithGuard(h))
		return errors.Join(err, h.Release(ctx))
	})
	p.repeat("config", func(ctx context.Context, rng *rand.Rand) error {
		_, err := config.Set(ctx, p.source, "level", rng.IntN(10))
		return err
	})
	p.repeat("session", func(ctx context.Context, _ *rand.Rand) error {
		session, err := c.Leases().OpenSession(ctx, lease.WithTTL(2*time.Second))
		if err != nil {
			return err
		}
		_, err = c.KV().Put(ctx, "session/"+p.name, nil, kv.WithLease(session.ID()))
		return errors.Join(err, session.Close())
	})
	p.repeat("shared session", func(ctx context.Context, _ *rand.Rand) error {
		session, err := c.Leases().Shared(ctx)
		if err != nil {
			return err
		}
		_, err = c.KV().Put(ctx, "shared/"+p.name, fmt.Append(nil, session.ID()), kv.WithLease(session.ID()))
		if err == nil {
			p.session.Store(session)
		}
		return err
	})
	p.repeat("key", func(ctx context.Context, rng *rand.Rand) error {
		return p.key.Update(ctx, fmt.Append(nil, rng.IntN(10)))
	})
	p.repeat("registration", func(ctx context.Context, _ *rand.Rand) error {
		reg, err := p.registry.Register(ctx, discovery.Instance{Service: "orders", ID: p.name + "-short", Host: p.name, Port: 2})
		if err != nil {
			return err
		}
		select {
		case p.closing <- struct{}{}:
			defer func() { <-p.closing }()
			return reg.Close()
		case <-reg.Context().Done(): // the registry closes it
			return context.Cause(reg.Context())
		}
	})
	// These end with the client only.
	p.running.Go(func() {
		for n := 0; ; n++ {
			err := c.Locks().Election("e").Run(context.WithoutCancel(ctx), p.name, func(ctx context.Context, _ *lock.Leadership) error {
				p.calls.Add(1)
				<-ctx.Done()
				return ctx.Err()
			})
			p.s.Trace("%s: election: %v", p.name, err)
			if errors.Is(err, etcdkit.ErrClosed) {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	p.running.Go(func() {
		for {
			err := c.Watcher().Consume(context.WithoutCancel(ctx), watch.Prefix("data/"), kv.NewCheckpoint(c.KV(), "checkpoint/"+p.name),
				func(context.Context, watch.Batch) error { return nil })
			p.s.Trace("%s: consume: %v", p.name, err)
			if errors.Is(err, etcdkit.ErrClosed) {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	p.running.Go(func() { // waits for a lock that another one holds, without a deadline
		for {
			h, err := c.Locks().Mutex("long").Lock(context.WithoutCancel(ctx))
			if errors.Is(err, etcdkit.ErrClosed) {
				return
			}
			if err == nil {
				<-h.Context().Done()
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

// list lists what is stored, and checks that the listing ends with ctx, which has a deadline.
func (p *program) list(ctx context.Context) (err error) {
	for _, e := range p.c.KV().List(ctx, "data/") {
		err = e
	}
	if deadline, _ := ctx.Deadline(); time.Since(deadline) > programLate {
		p.t.Errorf("%s: a listing returned %v after its context had ended", p.name, time.Since(deadline))
	}
	return err
}

// repeat makes calls until one returns ErrClosed.
func (p *program) repeat(what string, call func(ctx context.Context, rng *rand.Rand) error) {
	rng := p.s.Rand(p.name + what)
	p.running.Go(func() {
		for {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(p.t.Context()), time.Duration(rng.Int64N(int64(5*time.Second))))
			err := call(ctx, rng)
			cancel()
			switch {
			case err == nil || errors.Is(err, kv.ErrNotFound):
				p.calls.Add(1)
			case errors.Is(err, etcdkit.ErrClosed):
				return
			default:
				p.s.Trace("%s: %s: %v", p.name, what, err)
			}
			time.Sleep(time.Duration(rng.Int64N(int64(300 * time.Millisecond))))
		}
	})
}

// cutOff cuts the program off in two of three cases, for a while or until end is called.
func (p *program) cutOff(rng *rand.Rand) (end func()) {
	restore := func() { p.s.Unblock(p.name, "") }
	switch rng.IntN(3) {
	case 0:
		return func() {}
	case 1:
		p.s.Block(p.name, "", true, true)
	default:
		p.s.Refuse(p.name, "")
	}
	timer := time.AfterFunc(programCut, restore)
	return func() {
		if timer.Stop() {
			restore()
		}
	}
}

// close closes the parts before the client, or after it, and returns which one was the slowest.
func (p *program) close(clientFirst bool) (slowest string, longest time.Duration) {
	parts := []struct {
		name  string
		close func() error
	}{
		{"registry", p.registry.Close},
		{"source", p.source.Close},
		{"cache", p.cache.Close},
		{"replica", p.replica.Close},
		{"subscription", p.sub.Close},
		{"client", p.c.Close},
	}
	if clientFirst {
		last := len(parts) - 1
		parts = append(parts[last:], parts[:last]...)
	}
	for _, part := range parts {
		if part.name == "registry" {
			p.closing <- struct{}{}
		}
		session := p.session.Load()
		began := time.Now()
		err := part.close()
		took := time.Since(began)
		p.s.Trace("%s: close of %s after %v: %v", p.name, part.name, took, err)
		if took > programClose {
			p.t.Errorf("%s: Close of the %s took %v (client first: %v)", p.name, part.name, took, clientFirst)
		}
		if took >= longest {
			slowest, longest = part.name, took
		}
		p.ended(part.name, part.name)
		if part.name != "client" {
			continue
		}
		p.ended("subscription", part.name)
		if err == nil && session != nil && !errors.Is(session.Err(), lease.ErrExpired) && p.s.Keys()["shared/"+p.name] == fmt.Sprint(session.ID()) {
			p.t.Errorf("%s: the lease of the shared session is not revoked, and Close of the client returned no error", p.name)
		}
	}
	began := time.Now()
	done := make(chan struct{})
	go func() {
		p.running.Wait()
		close(done)
	}()
	<-done
	if took := time.Since(began); took > programEnd {
		p.t.Errorf("%s: calls returned %v after Close", p.name, took)
	}
	return slowest, longest
}

// clockRates are the speeds of the members' clocks that sessions allow for.
var clockRates = []float64{0.9, 1, 1.1}

func TestSim_ProgramLeavesNothingBehind(t *testing.T) {
	for _, rate := range clockRates {
		o := sim.Options{Users: map[string]string{"ann": programPasswords}, TokenTTL: 4 * time.Second, ClockRate: rate}
		t.Run(fmt.Sprint("clocks=", rate), func(t *testing.T) {
			forSeeds(t, o, runPrograms)
		})
	}
}

func runPrograms(t *testing.T, s *sim.Sim) {
	rng := s.Rand("programs")
	var programs []*program
	for _, name := range []string{"a", "b"} {
		cfg := s.Config()
		cfg.SessionTTL = etcdkit.Duration(lockTTL)
		cfg.Username, cfg.Password, cfg.AllowInsecureCredentials = "ann", etcdkit.NewSecret(programPasswords), true
		c, err := s.Open(t.Context(), name, cfg)
		require.NoError(t, err)
		p := &program{t: t, s: s, name: name, c: c, closing: make(chan struct{}, 1), inside: map[string]*atomic.Int64{}}
		p.open(t.Context())
		programs = append(programs, p)
	}
	s.StartFaults(sim.Plan{Interval: 500 * time.Millisecond})
	time.Sleep(programRunTime/2 + time.Duration(rng.Int64N(int64(programRunTime/2))))
	calls := int64(0)
	for _, p := range programs {
		clientFirst := rng.IntN(2) == 0
		reconnect := p.cutOff(rng)
		slowest, longest := p.close(clientFirst)
		reconnect()
		t.Logf("%s: slowest was Close of the %s with %v (client first: %v)", p.name, slowest, longest, clientFirst)
		calls += p.calls.Load()
	}
	s.StopFaults()
	time.Sleep(programExpiry)
	for key := range s.Keys() {
		mine := false
		for _, prefix := range stored {
			mine = mine || strings.HasPrefix(key, prefix)
		}
		assert.True(t, mine, "%s is left behind", key)
	}
	assert.Empty(t, s.Leases(), "leases are left behind")
	t.Logf("%d calls, %d logins", calls, s.Count()["request Authenticate"])
	assert.Positive(t, calls)
}
