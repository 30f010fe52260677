package sim_test

// The invariants of discovery:
//
//   - One revision: a view shows all instances of one revision, as they were registered, and beyond
//     these only instances that it has shown and that were lost without having been drained. No
//     instance is shown that was never registered, and no view goes back.
//   - Grace: while instances are lost without having been drained, at most half of them leave a view
//     before their keys have been gone for the grace period, also if they are lost one after the other.
//   - Never blind: a view, a picker and a resolver that knew instances never fall to none.
//   - No noise: a resolver does not pass on what it has passed on before.
//   - Exclusive IDs: no registration replaces the key of another process, and none deletes that of
//     another registration.
//   - Deregistration: the key of a registration whose Close has returned nil does not come back.
//   - Nothing is left behind: after registries are closed, and leases have expired, there are no keys
//     and no leases.
//   - Liveness: once faults stop, all registrations are back with their latest state, and views and
//     resolvers show exactly these, within a bound. Without faults, views and resolvers show at once
//     that an instance was updated, drains or was closed. One that drains does so until it is closed.
//
// The cluster is restored from a snapshot, or wiped, in the middle of the faults, and one process
// is killed. After the faults, the other processes are cut off until their leases have expired.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/sim"
)

const (
	discoveryFaultTime = 30 * time.Second
	discoveryGrace     = discovery.DefaultGrace
	discoveryHeal      = 30 * time.Second // until registrations are back after the faults
	discoveryAtOnce    = time.Second      // until changes are shown without faults
	discoveryStagger   = 2 * time.Second  // between the cuts of two processes
	instancePrefix     = "services/orders/instances/"
)

// entry is what the key of an instance holds.
type entry struct {
	Host     string            `json:"host"`
	Port     int               `json:"port"`
	Status   discovery.Status  `json:"status"`
	Metadata map[string]string `json:"metadata"`
}

// entryOf decodes the value of an instance's key. Metadata "reg" is the registration, and "n" counts
// its updates.
func entryOf(value string) (e entry) {
	if err := json.Unmarshal([]byte(value), &e); err != nil {
		panic(err)
	}
	return e
}

func (e entry) draining() bool { return e.Status == discovery.Draining }

// text identifies what a view shows of an instance.
func (e entry) text() string {
	status := e.Status
	if status == "" {
		status = discovery.Up
	}
	return fmt.Sprint(e.Host, e.Port, status, e.Metadata)
}

func textOf(i *discovery.Instance) string {
	return entry{Host: i.Host, Port: i.Port, Status: i.Status, Metadata: i.Metadata}.text()
}

// registrations checks the keys of registrations. It observes commits.
type registrations struct {
	t *testing.T
	s *sim.Sim

	mu      sync.Mutex
	started map[string]bool          // by registration
	open    map[string]bool          // Register has returned, and Close was not called
	closed  map[string]bool          // Close has returned nil
	keys    map[string]*mvccpb.Event // the last put of each key
	deleted []*mvccpb.Event          // puts of keys that were deleted while their registration was open
	revived map[string]bool          // processes of which a restored cluster has the key of a registration that is not open
	n       map[string]int
}

func (r *registrations) observe(e *mvccpb.Event) {
	id, ok := strings.CutPrefix(string(e.Kv.Key), instancePrefix)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.keys[id]
	if e.Type == mvccpb.Event_DELETE {
		delete(r.keys, id)
		if before == nil {
			return
		}
		if reg := entryOf(string(before.Kv.Value)).Metadata["reg"]; r.open[reg] {
			r.deleted = append(r.deleted, before)
		}
		return
	}
	r.keys[id] = e
	now := entryOf(string(e.Kv.Value))
	reg := now.Metadata["reg"]
	switch {
	case !r.started[reg]:
		r.t.Errorf("%s was registered by %q, which is unknown", id, reg)
	case r.closed[reg]:
		r.t.Errorf("%s came back at %d after Close of %s had returned", id, e.Kv.ModRevision, reg)
	}
	if before == nil {
		return
	}
	if old := entryOf(string(before.Kv.Value)); old.Host != now.Host || old.Port != now.Port {
		r.t.Errorf("%s of %v was replaced by %v at %d", id, old, now, e.Kv.ModRevision)
	}
}

// restore forgets what a restored cluster has forgotten.
func (r *registrations) restore(_ int64, keys map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deleted, r.keys = nil, map[string]*mvccpb.Event{}
	for key, value := range keys {
		if id, ok := strings.CutPrefix(key, instancePrefix); ok {
			r.keys[id] = &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value)}}
			if reg := entryOf(value).Metadata["reg"]; !r.open[reg] {
				process, _, _ := strings.Cut(reg, ":")
				r.revived[process] = true
			}
		}
	}
}

// check checks that keys of open registrations disappeared with their leases only.
func (r *registrations) check() {
	leases := r.s.Leases()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.deleted {
		if slices.Contains(leases, e.Kv.Lease) {
			r.t.Errorf("%s was deleted while its registration was open and its lease existed; it was written at %d", e.Kv.Key, e.Kv.ModRevision)
		}
		r.n["lost with its lease"]++
	}
	r.deleted = nil
}

// registrant registers instances of one process.
type registrant struct {
	*registrations

	name     string
	rng      *rand.Rand
	registry *discovery.Registry
	port     int
	next     int
}

// register registers an instance.
func (g *registrant) register(ctx context.Context, id string) (*discovery.Registration, string, error) {
	g.next++
	nonce := fmt.Sprintf("%s:%s:%d", g.name, id, g.next)
	g.mu.Lock()
	g.started[nonce] = true
	g.mu.Unlock()
	reg, err := g.registry.Register(ctx, g.instance(id, nonce, 0), discovery.WithDrainDelay(time.Second))
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.s.Trace("%s: register %s: %v", g.name, id, err)
		g.n["not registered"]++
		return nil, nonce, err
	}
	g.s.Trace("%s: registered %s", g.name, nonce)
	g.open[nonce] = true
	g.n["registered"]++
	return reg, nonce, nil
}

func (g *registrant) instance(id, nonce string, n int) discovery.Instance {
	return discovery.Instance{
		Service: "orders", ID: id, Host: "10.0.0." + strconv.Itoa(g.port%250), Port: g.port,
		Metadata: map[string]string{"reg": nonce, "n": strconv.Itoa(n)},
	}
}

// unregister closes a registration.
func (g *registrant) unregister(reg *discovery.Registration, nonce string) {
	g.mu.Lock()
	delete(g.open, nonce)
	g.mu.Unlock()
	err := reg.Close()
	g.s.Trace("%s: closed %s: %v", g.name, nonce, err)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed[nonce] = err == nil
}

// stay keeps an instance registered and updates it until ctx ends.
func (g *registrant) stay(ctx context.Context, reg *discovery.Registration, nonce string) {
	rng := g.s.Rand(nonce)
	for n := 1; ctx.Err() == nil; n++ {
		bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
		if err := reg.Update(bounded, g.instance("", nonce, n)); err != nil {
			g.s.Trace("%s: update %s: %v", g.name, nonce, err)
		}
		cancel()
		time.Sleep(time.Duration(rng.Int64N(int64(4 * time.Second))))
	}
}

// churn registers an instance again and again until ctx ends.
func (g *registrant) churn(ctx context.Context, id string) {
	rng := g.s.Rand(g.name + id)
	for ctx.Err() == nil {
		bounded, cancel := context.WithTimeout(ctx, time.Duration(rng.Int64N(int64(8*time.Second))))
		reg, nonce, err := g.register(bounded, id)
		cancel()
		if err != nil {
			time.Sleep(time.Duration(rng.Int64N(int64(500 * time.Millisecond))))
			continue
		}
		time.Sleep(time.Duration(rng.Int64N(int64(5 * time.Second))))
		if rng.IntN(2) == 0 {
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			if err := reg.Drain(bounded); err != nil {
				g.s.Trace("%s: drain %s: %v", g.name, nonce, err)
			}
			cancel()
		}
		g.unregister(reg, nonce)
	}
}

// viewer checks what a view shows.
type viewer struct {
	t    *testing.T
	s    *sim.Sim
	tl   *timeline
	name string
	view *discovery.Service
	pick *discovery.Picker

	mu    sync.Mutex
	at    int               // the state that was shown last
	shown map[string]string // texts by ID, of the last list
	n     int               // of lists
	held  int               // instances in lists that were lost
}

// show checks a list.
func (v *viewer) show(list []discovery.Instance) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := map[string]string{}
	for _, i := range list {
		now[i.ID] = textOf(&i)
	}
	known := map[string]bool{} // texts that were registered since the last list
	at := v.tl.find(v.at, func(m moment) bool {
		for id, value := range m.keys {
			known[id+entryOf(value).text()] = true
		}
		for id, text := range now {
			if value, ok := m.keys[id]; ok && entryOf(value).text() != text || !ok && v.shown[id] != text && !known[id+text] {
				return false
			}
		}
		for id := range m.keys {
			if now[id] == "" {
				return false
			}
		}
		return true
	})
	if at < 0 {
		v.t.Errorf("%s shows %v; no state from revision %d on has these, and lost ones of %v", v.name, now, v.tl.between(v.at, v.at)[0].rev, v.shown)
		return
	}
	states := v.tl.between(v.at, at)
	for id := range now {
		if _, ok := states[len(states)-1].keys[id]; !ok {
			v.held++
		}
	}
	v.losses(now, states)
	if len(v.shown) > 0 && len(now) == 0 {
		v.t.Errorf("%s shows no instance anymore, after %v", v.name, v.shown)
	}
	v.at, v.shown = at, now
	v.n++
}

// sees checks that there are instances to read and to pick.
func (v *viewer) sees() {
	if len(v.view.Instances()) == 0 {
		v.t.Errorf("%s: Instances returns none", v.name)
	}
	pick, err := v.pick.Pick()
	if err != nil {
		v.t.Errorf("%s picks none: %v", v.name, err)
		return
	}
	pick.Done(nil)
}

// texts returns the texts of instances by ID.
func texts(all []discovery.Instance) map[string]string {
	out := map[string]string{}
	for i := range all {
		out[all[i].ID] = textOf(&all[i])
	}
	return out
}

// shows reports whether the view and a resolver show exactly some instances. A resolver leaves out
// those that drain.
func (v *viewer) shows(c *connection, want []discovery.Instance) bool {
	up := slices.DeleteFunc(slices.Clone(want), func(i discovery.Instance) bool { return i.Status == discovery.Draining })
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Equal(texts(v.view.Instances()), texts(want)) && maps.Equal(c.shown, texts(up))
}

// losses checks how many instances have left the view before their grace was over.
func (v *viewer) losses(now map[string]string, states []moment) {
	lost, drained := 0, 0
	for id := range v.shown {
		if _, ok := now[id]; ok {
			continue
		}
		if strings.Contains(v.shown[id], string(discovery.Draining)) || v.drained(id, states) {
			drained++
		} else if v.gone(id, states) < discoveryGrace {
			lost++
		}
	}
	left := len(now) + drained
	if left+lost > 3 && left < lost {
		v.t.Errorf("%s: %d instances were lost at once, and %d are left: %v after %v", v.name, lost, left, now, v.shown)
	}
}

// drained reports whether an instance was draining in one of several states.
func (v *viewer) drained(id string, states []moment) bool {
	return slices.ContainsFunc(states, func(m moment) bool {
		value, ok := m.keys[id]
		return ok && entryOf(value).draining()
	})
}

// gone returns for how long the key of an instance has been gone.
func (v *viewer) gone(id string, states []moment) time.Duration {
	all := v.tl.between(0, v.at+len(states)-1)
	at := all[len(all)-1].at
	for _, m := range slices.Backward(all) {
		if _, ok := m.keys[id]; ok {
			break
		}
		at = m.at
	}
	return time.Since(at)
}

// connection is what a resolver reports to.
type connection struct {
	resolver.ClientConn

	t    *testing.T
	name string

	mu      sync.Mutex
	shown   map[string]string // texts by ID
	n       int
	leaving bool // instances are closed
}

// UpdateState checks the addresses.
func (c *connection) UpdateState(st resolver.State) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(st.Endpoints) == 0 && !c.leaving {
		c.t.Errorf("%s: the resolver has no address anymore, after %v", c.name, c.shown)
	}
	now := map[string]string{}
	for _, e := range st.Endpoints {
		i, ok := discovery.InstanceOf(e)
		if !ok || e.Addresses[0].Addr != i.Addr() {
			c.t.Errorf("%s: the resolver passes on %v for %v", c.name, e.Addresses, i)
			continue
		}
		now[i.ID] = textOf(i)
	}
	if c.n > 0 && maps.Equal(now, c.shown) {
		c.t.Errorf("%s: the resolver passes on the same instances again: %v", c.name, now)
	}
	c.shown, c.n = now, c.n+1
	return nil
}

// ReportError ignores why there are no addresses yet.
func (c *connection) ReportError(error) {}

// ParseServiceConfig returns an empty configuration.
func (c *connection) ParseServiceConfig(string) *serviceconfig.ParseResult {
	return &serviceconfig.ParseResult{}
}

// staying is a registration that is open until the end.
type staying struct {
	*registrant

	id, nonce string
	reg       *discovery.Registration
}

// update updates the instance and returns it as it must be shown.
func (y *staying) update(n int, status discovery.Status) discovery.Instance {
	i := y.instance(y.id, y.nonce, n)
	assert.NoError(y.t, y.reg.Update(y.t.Context(), i), "update of %s", y.nonce)
	i.Status = status
	return i
}

func TestSim_DiscoveryIsNeverBlind(t *testing.T) {
	forSeeds(t, sim.Options{}, func(t *testing.T, s *sim.Sim) {
		tl := follow(s, instancePrefix)
		regs := &registrations{
			t: t, s: s, started: map[string]bool{}, open: map[string]bool{}, closed: map[string]bool{},
			keys: map[string]*mvccpb.Event{}, revived: map[string]bool{}, n: map[string]int{},
		}
		s.Observe(regs.observe)
		s.ObserveRestores(regs.restore)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var clients []*etcdkit.Client
		var registries []*discovery.Registry
		port := 1000
		newRegistrant := func(name string) *registrant {
			c := openUntil(t, s, name)
			clients = append(clients, c)
			registry, err := discovery.New(c, discovery.WithTTL(lockTTL))
			require.NoError(t, err)
			registries = append(registries, registry)
			port++
			return &registrant{registrations: regs, name: name, rng: s.Rand(name), registry: registry, port: port}
		}
		// p, q and o stay. x is killed. c registers two instances again and again. d and e want the same ID.
		var running sync.WaitGroup
		var stay []*staying
		const killed = 3
		processes := []string{"p", "q", "o", "x"}
		for _, name := range processes {
			g := newRegistrant(name)
			for i := range 2 {
				id := fmt.Sprint(name, i)
				reg, nonce, err := g.register(t.Context(), id)
				require.NoError(t, err)
				if name == "x" {
					continue
				}
				stay = append(stay, &staying{registrant: g, id: id, nonce: nonce, reg: reg})
				running.Go(func() { g.stay(ctx, reg, nonce) })
			}
		}
		churned := map[string]string{"c": "c0", "d": "same", "e": "same"}
		var churning []*registrant
		for _, name := range []string{"c", "d", "e"} {
			g := newRegistrant(name)
			churning = append(churning, g)
			running.Go(func() { g.churn(ctx, churned[name]) })
		}
		var viewers []*viewer
		var conns []*connection
		for _, name := range []string{"v", "u"} {
			g := newRegistrant(name)
			view, err := g.registry.OpenService(t.Context(), "orders")
			require.NoError(t, err)
			v := &viewer{t: t, s: s, tl: tl, name: name, view: view, pick: view.Picker(discovery.RoundRobin())}
			view.Follow(v.show)
			viewers = append(viewers, v)
			conn := &connection{t: t, name: name}
			res, err := g.registry.Resolver().Build(resolver.Target{URL: url.URL{Scheme: "etcd", Path: "/orders"}}, conn, resolver.BuildOptions{})
			require.NoError(t, err)
			defer res.Close() //nolint:gocritic // two of them, until the test ends
			conns = append(conns, conn)
		}
		running.Go(func() {
			for ctx.Err() == nil {
				regs.check()
				for _, v := range viewers {
					v.sees()
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
		s.StartFaults(sim.Plan{Interval: time.Second})
		running.Go(func() { restoreOnce(s, s.Rand("restore"), discoveryFaultTime) })
		time.Sleep(discoveryFaultTime / 2)
		regs.mu.Lock()
		maps.DeleteFunc(regs.open, func(nonce string, _ bool) bool { return strings.HasPrefix(nonce, "x:") })
		regs.mu.Unlock()
		s.Kill("x")
		time.Sleep(discoveryFaultTime / 2)
		s.StopFaults()
		began := time.Now()
		stop()
		running.Wait()
		for _, g := range churning { // a key that was revived stays until its process registers the ID again
			if regs.revived[g.name] {
				if reg, nonce, err := g.register(t.Context(), churned[g.name]); err == nil {
					g.unregister(reg, nonce)
				}
			}
		}

		want := func() (out []discovery.Instance) {
			for _, y := range stay {
				out = append(out, y.reg.Instance())
			}
			return out
		}
		stored := func() map[string]string {
			out := map[string]string{}
			for key, value := range s.Keys() {
				if id, ok := strings.CutPrefix(key, instancePrefix); ok && id[:1] != "x" {
					out[id] = entryOf(value).text()
				}
			}
			return out
		}
		healed := func() bool {
			for _, y := range stay {
				if y.reg.State() != discovery.Registered {
					return false
				}
			}
			return maps.Equal(texts(want()), stored())
		}
		heal := func(after string) {
			within(t, discoveryHeal, healed, "registered is not what is wanted after %s", after)
			if t.Failed() {
				t.Logf("%v is registered; wanted is %v", stored(), texts(want()))
			}
		}
		show := func(d time.Duration, want []discovery.Instance, after string) {
			for n, v := range viewers {
				shows := func() bool { return v.shows(conns[n], want) }
				within(t, d, shows, "%s does not show what is registered after %s", v.name, after)
				if !shows() {
					t.Logf("%s shows %v and %v; wanted is %v", v.name, v.view.Instances(), conns[n].shown, texts(want))
				}
			}
		}
		heal("the faults")
		took := time.Since(began)
		show(discoveryGrace+discoveryHeal, want(), "the faults")
		regs.check()

		for _, name := range processes[:killed] {
			s.Block(name, "", true, true)
			time.Sleep(discoveryStagger)
		}
		time.Sleep(2 * lockTTL)
		assert.Empty(t, stored(), "processes that are cut off keep their leases")
		for _, v := range viewers {
			v.sees()
		}
		for _, name := range processes[:killed] {
			s.Unblock(name, "")
		}
		heal("they were cut off")
		show(discoveryGrace+discoveryHeal, want(), "they were cut off")
		regs.check()

		var updates sync.WaitGroup
		now := make([]discovery.Instance, len(stay))
		for n, y := range stay {
			updates.Go(func() { now[n] = y.update(1000, discovery.Up) })
		}
		updates.Wait()
		show(discoveryAtOnce, now, "updates")
		assert.NoError(t, stay[0].reg.Drain(t.Context()))
		now[0] = stay[0].update(1001, discovery.Draining)
		show(discoveryAtOnce, now, "a drain")
		for _, y := range stay[:2] {
			y.unregister(y.reg, y.nonce)
		}
		show(discoveryAtOnce, now[2:], "instances were closed")
		for _, v := range viewers {
			assert.NoError(t, v.view.Close())
		}
		for _, c := range conns {
			c.mu.Lock()
			c.leaving = true
			c.mu.Unlock()
		}
		for i, c := range clients {
			began := time.Now()
			regs.mu.Lock()
			clear(regs.open)
			regs.mu.Unlock()
			if err := errors.Join(registries[i].Close(), c.Close()); i != killed {
				assert.NoError(t, err)
			}
			assert.LessOrEqual(t, time.Since(began), 12*time.Second, "Close took long")
		}
		time.Sleep(lockTTL + 10*time.Second)
		assert.Empty(t, s.Keys(), "keys are left behind")
		assert.Empty(t, s.Leases(), "leases are left behind")
		lists, held, resolved := 0, 0, 0
		for n, v := range viewers {
			lists, held, resolved = lists+v.n, held+v.held, resolved+conns[n].n
		}
		t.Logf("%d states; registered again within %v; %d lists with %d held back, %d updates of resolvers; %v", tl.len(), took, lists, held, resolved, regs.n)
	})
}
