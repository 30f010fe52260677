package sim_test

// The invariants of config:
//
//   - No mixture: All shows the keys of one revision, and so does the struct of a BindDir.
//   - No bad value: Load and the functions given to Follow never show a value that does not decode or
//     that validation refuses.
//   - Order: what each of them shows is never older than what it has shown before, unless the cluster
//     was restored. Changes of one history come in the order of revisions and keys. Each begins with
//     the value that the last one of its key ended with.
//   - Before followers: when a function given to Follow is called, All and Load show its change, or
//     a later one.
//   - Bounded: All shows every change that was made before Status.Age, and before the time for which
//     a member does not notice that it is cut off.
//   - State file: a source that starts from its file shows a state that was good.
//   - Updates raise a counter by one each.
//   - Liveness: once faults stop, the last good value is shown within a bound. A bad one is reported
//     and does not replace it. A write is visible to its own process when it returns.
//
// The cluster is restored from a snapshot, or wiped, in the middle of the faults.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/sim"
	"github.com/etcdkit/etcdkit/kv"
)

const (
	configClients   = 2
	configFaultTime = 30 * time.Second
	configUnnoticed = 5 * time.Second  // for which a member may serve a watch without the others
	configCatchUp   = 45 * time.Second // after the faults
	defaultRate     = 1000
)

// limits is what the sources of this workload bind. A and B are always written together.
type limits struct {
	A    int    `config:"a,required"`
	B    int    `config:"b,required"`
	Note string `config:"note" default:"none"`
}

// number returns the number that a key has, which is good if it is not negative.
func number(m moment, key string) (n int, ok bool) {
	n, err := strconv.Atoi(m.keys[key])
	return n, err == nil && n >= 0
}

// limitsOf returns the limits of a state, if they are good.
func limitsOf(m moment) (limits, bool) {
	a, goodA := number(m, "limits/a")
	b, goodB := number(m, "limits/b")
	note, ok := m.keys["limits/note"]
	if !ok {
		note = "none"
	}
	return limits{A: a, B: b, Note: note}, goodA && goodB
}

// rateOf returns the rate of a state, if it is good.
func rateOf(m moment) (int, bool) {
	if _, ok := m.keys["rate"]; !ok {
		return defaultRate, true
	}
	return number(m, "rate")
}

// configReader is a process that opens sources, one after the other, and checks what they show.
type configReader struct {
	t      *testing.T
	s      *sim.Sim
	tl     *timeline
	name   string
	rng    *rand.Rand
	client string // its name
	c      *etcdkit.Client
	state  string // path of the state file, or ""

	src     *config.Source
	limits  *config.Value[limits]
	rate    *config.Value[int]
	counter *config.Value[int]

	mu      sync.Mutex // guards what follows, for the functions given to Follow
	reached map[string]int
	last    map[string]string // what the last change of a key has ended with
	change  config.Change     // the last one
	n       map[string]int
}

// reach finds the state that a reader shows, which is not before the one that it has shown.
func (r *configReader) reach(what string, shown any, is func(m moment) bool) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.reached[what]
	at := r.tl.find(first, is)
	if at < 0 {
		r.t.Errorf("%s: %s shows %v, which no state from revision %d on has", r.name, what, shown, r.tl.between(first, first)[0].rev)
		return first
	}
	r.n[what]++
	r.reached[what] = at
	return at
}

// notBefore makes later reads of what start at a state.
func (r *configReader) notBefore(what string, at int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reached[what] = max(r.reached[what], at)
}

func (r *configReader) checkLimits(what string, v limits) int {
	return r.reach(what, v, func(m moment) bool {
		want, ok := limitsOf(m)
		return ok && want == v
	})
}

func (r *configReader) checkRate(what string, v int) {
	r.reach(what, v, func(m moment) bool {
		want, ok := rateOf(m)
		return ok && want == v
	})
}

// checkAll checks that All shows one state.
func (r *configReader) checkAll(what string) {
	shown := map[string]string{}
	for key, value := range r.src.All() {
		shown[key] = string(value)
	}
	r.reach(what, shown, func(m moment) bool { return assert.ObjectsAreEqual(m.keys, shown) })
}

// checkChange checks a change and what the source shows when it comes. A restored cluster repeats
// revisions: the change may fit states of several histories.
func (r *configReader) checkChange(c config.Change) {
	states := r.tl.between(0, r.tl.len()-1)
	r.mu.Lock()
	inOrder := c.Revision > r.change.Revision || c.Revision == r.change.Revision && c.Key > r.change.Key
	restores := states[r.reached["changes"]].restores // before the last change
	r.mu.Unlock()
	fits := func(m moment) bool {
		if value, ok := m.keys[c.Key]; m.rev > c.Revision || ok != (c.New != nil) || value != string(c.New) {
			return false
		}
		if !inOrder && m.restores == restores {
			return false
		}
		i := slices.IndexFunc(states, func(o moment) bool { return o.rev == m.rev && o.restores == m.restores })
		next := i + 1
		return next >= len(states) || states[next].restores != m.restores || states[next].rev > c.Revision
	}
	at := r.reach("changes", c, fits)
	m := r.tl.between(at, at)[0]
	r.mu.Lock()
	if !inOrder && !fits(m) {
		r.t.Errorf("%s: the changes are not in order: %s at %d after %s at %d, without a restore", r.name, c.Key, c.Revision, r.change.Key, r.change.Revision)
	}
	if before, ok := r.last[c.Key]; ok && before != string(c.Old) {
		r.t.Errorf("%s: the change of %s at %d begins with %q; the last one ended with %q", r.name, c.Key, c.Revision, c.Old, before)
	}
	r.last[c.Key], r.change = string(c.New), c
	r.mu.Unlock()
	const what = "All of a function that is called for a change"
	r.notBefore(what, at)
	r.checkAll(what)
	bad := func(m moment) bool { // Load then shows an earlier state
		_, ok := limitsOf(m)
		return fits(m) && !ok
	}
	if !slices.ContainsFunc(r.tl.between(at, r.tl.len()-1), bad) {
		const what = "Load of limits of a function that is called for a change"
		r.notBefore(what, at)
		r.checkLimits(what, r.limits.Load())
	}
}

// open opens a source and binds the values.
func (r *configReader) open(ctx context.Context) (err error) {
	opts := []config.Option{}
	if r.state != "" {
		opts = append(opts, config.WithStateFile(r.state))
	}
	cut := r.state != "" && r.rng.IntN(2) == 0
	if cut {
		r.s.Block(r.client, "", true, true)
	}
	src, err := config.Open(ctx, r.c, "app", opts...)
	if cut {
		r.s.Unblock(r.client, "")
	}
	if err != nil {
		return err
	}
	notNegative := func(n int) error {
		if n < 0 {
			return errors.New("negative")
		}
		return nil
	}
	r.mu.Lock()
	r.reached, r.last, r.change = map[string]int{}, map[string]string{}, config.Change{}
	r.n["opened from "+src.Status().Origin.String()]++
	r.mu.Unlock()
	r.src = src
	r.limits, err = config.BindDir(src, "limits", config.WithValidate(func(l limits) error { return errors.Join(notNegative(l.A), notNegative(l.B)) }))
	if err == nil {
		r.rate, err = config.Bind(src, "rate", config.WithDefault(defaultRate), config.WithValidate(notNegative))
	}
	if err == nil {
		r.counter, err = config.Bind(src, "counter", config.WithDefault(0))
	}
	if err != nil {
		return errors.Join(err, src.Close())
	}
	r.limits.Follow(func(v limits) {
		at := r.checkLimits("Follow of limits", v)
		r.notBefore("Load of limits of a follower", at)
		r.checkLimits("Load of limits of a follower", r.limits.Load())
	})
	r.rate.Follow(func(v int) { r.checkRate("Follow of rate", v) })
	src.Follow("", r.checkChange)
	return nil
}

// run opens sources and reads until ctx ends. The last source stays open.
func (r *configReader) run(ctx context.Context) {
	for {
		err := r.open(context.WithoutCancel(ctx))
		if err != nil {
			var bad *config.BadValueError
			if !errors.Is(err, config.ErrUnavailable) && !errors.As(err, &bad) {
				r.t.Errorf("%s: open: %v", r.name, err)
			}
			r.s.Trace("%s: open: %v", r.name, err)
			time.Sleep(time.Duration(r.rng.Int64N(int64(time.Second))))
			continue
		}
		until := time.Now().Add(time.Duration(r.rng.Int64N(int64(15 * time.Second))))
		for ctx.Err() == nil && time.Now().Before(until) {
			r.read(ctx)
			time.Sleep(time.Duration(r.rng.Int64N(int64(100 * time.Millisecond))))
		}
		if ctx.Err() != nil {
			return
		}
		if err := r.src.Close(); err != nil {
			r.t.Errorf("%s: close: %v", r.name, err)
		}
	}
}

// read reads what is in memory, and sometimes raises the counter.
func (r *configReader) read(ctx context.Context) {
	r.checkLimits("Load of limits", r.limits.Load())
	r.checkRate("Load of rate", r.rate.Load())
	if st := r.src.Status(); st.Origin == config.Live { // a state file keeps bound values that are older than the rest
		r.notBefore("All", r.tl.by(time.Now().Add(-st.Age-configUnnoticed)))
		r.checkAll("All")
	}
	if r.rng.IntN(20) == 0 {
		bounded, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		_, err := r.counter.Update(bounded, func(n *int) error {
			*n++
			return nil
		})
		if err != nil {
			r.s.Trace("%s: update: %v", r.name, err)
			return
		}
		r.mu.Lock()
		r.n["update"]++
		r.mu.Unlock()
	}
}

// configure writes good and bad values until ctx ends.
func configure(ctx context.Context, s *sim.Sim, store *kv.Store) {
	rng := s.Rand("writer")
	put := func(key string, value any) kv.Op { return kv.OpPut("app/"+key, fmt.Append(nil, value)) }
	for n := 1; ctx.Err() == nil; n++ {
		var ops []kv.Op
		switch rng.IntN(12) {
		default:
			ops = append(ops, put("limits/a", n), put("limits/b", n), put("rate", n))
		case 4:
			ops = append(ops, put("limits/a", "x"), put("limits/b", n))
		case 5:
			ops = append(ops, put("limits/a", -n), put("limits/b", -n))
		case 6:
			ops = append(ops, kv.OpDelete("app/limits/a"), kv.OpDelete("app/limits/b"))
		case 7:
			ops = append(ops, put("limits/note", n))
		case 8:
			ops = append(ops, kv.OpDelete("app/limits/note"), put("limits/a", n), put("limits/b", n))
		case 9:
			ops = append(ops, put("rate", "x"))
		case 10:
			ops = append(ops, kv.OpDelete("app/rate"))
		case 11:
			ops = append(ops, put("rate", -n), put("limits/a", n), put("limits/b", n))
		}
		bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
		if _, err := store.Batch(bounded, ops...); err != nil {
			s.Trace("writer: %v", err)
		}
		cancel()
		time.Sleep(time.Duration(rng.Int64N(int64(300 * time.Millisecond))))
	}
}

// checkCounter checks that the counter was raised by one each time.
func checkCounter(t *testing.T, tl *timeline) (n int) {
	t.Helper()
	states := tl.between(0, tl.len()-1)
	for i, m := range states {
		if i == 0 || states[i-1].restores != m.restores || states[i-1].keys["counter"] == m.keys["counter"] {
			continue
		}
		before, _ := number(states[i-1], "counter")
		if now, _ := number(m, "counter"); now != before+1 {
			t.Errorf("the counter was changed from %q to %q at %d", states[i-1].keys["counter"], m.keys["counter"], m.rev)
		}
		n++
	}
	return n
}

// within waits until a condition holds.
func within(t *testing.T, d time.Duration, holds func() bool, format string, args ...any) {
	t.Helper()
	for began := time.Now(); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > d {
			t.Errorf("after %v: "+format, append([]any{d}, args...)...)
			return
		}
	}
}

func TestSim_ConfigShowsGoodStates(t *testing.T) {
	forSeeds(t, sim.Options{}, func(t *testing.T, s *sim.Sim) {
		tl := follow(s, "app/")
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		writer := openUntil(t, s, "w")
		store := writer.KV()
		writeLimits := func(a any, b, rate int) {
			_, err := store.Batch(t.Context(), kv.OpPut("app/limits/a", fmt.Append(nil, a)),
				kv.OpPut("app/limits/b", fmt.Append(nil, b)), kv.OpPut("app/rate", fmt.Append(nil, rate)))
			require.NoError(t, err)
		}
		writeLimits(0, 0, 0)
		clients := []*etcdkit.Client{writer}
		var readers []*configReader
		var reading, writing sync.WaitGroup
		dir := t.TempDir()
		for i := range configClients {
			name := string(rune('a' + i))
			c := openUntil(t, s, name)
			clients = append(clients, c)
			for _, state := range []string{"", filepath.Join(dir, name)} {
				r := &configReader{t: t, s: s, tl: tl, name: name, client: name, c: c, state: state, n: map[string]int{}}
				if state != "" {
					r.name += "/state file"
				}
				r.rng = s.Rand(r.name)
				readers = append(readers, r)
				reading.Go(func() { r.run(ctx) })
			}
		}
		writing.Go(func() { configure(ctx, s, store) })
		s.StartFaults(sim.Plan{Interval: time.Second})
		writing.Go(func() { restoreOnce(s, s.Rand("restore"), configFaultTime) })
		time.Sleep(configFaultTime)
		s.StopFaults()
		stop()
		writing.Wait()
		time.Sleep(10 * time.Second) // what was sent before is applied
		const first, second = 1_000_000, 1_000_001
		writeLimits(first, first, first)
		began := time.Now()
		reading.Wait() // sources that could not be opened before are open now
		for _, r := range readers {
			within(t, configCatchUp-time.Since(began), func() bool { return r.limits.Load().A == first && r.rate.Load() == first },
				"%s shows %v and %d, not %d; status %+v", r.name, r.limits.Load(), r.rate.Load(), first, r.src.Status())
		}
		took := time.Since(began)
		writeLimits("x", second, second)
		for _, r := range readers {
			within(t, 5*time.Second, func() bool { return r.limits.Err() != nil && r.rate.Load() == second }, "%s does not report the bad value", r.name)
			assert.Equal(t, first, r.limits.Load().A, "%s: a bad value replaced the last good one", r.name)
		}
		writeLimits(second, second, second)
		for i, r := range readers {
			within(t, 5*time.Second, func() bool { return r.limits.Load().A == second && r.limits.Err() == nil }, "%s does not show the good value", r.name)
			_, err := r.rate.Set(t.Context(), second+i)
			require.NoError(t, err)
			assert.Equal(t, second+i, r.rate.Load(), "%s does not show its own write", r.name)
			r.read(t.Context())
		}
		sum := map[string]int{}
		for _, r := range readers {
			assert.NoError(t, r.src.Close())
			for what, n := range r.n {
				sum[what] += n
			}
		}
		for _, c := range clients {
			assert.NoError(t, c.Close())
		}
		t.Logf("%d states, %d raises of the counter; caught up within %v: %v", tl.len(), checkCounter(t, tl), took, sum)
		assert.Positive(t, sum["changes"])
	})
}
