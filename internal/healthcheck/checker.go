package healthcheck

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/outage"
)

const (
	roundInterval   = 2 * time.Second        // between two rounds, and two probes of an unhealthy endpoint
	healthyInterval = 60 * time.Second       // between two probes of a healthy endpoint, ±20 %
	confirmInterval = 500 * time.Millisecond // from the first failure to the second probe
	probeTimeout    = time.Second

	slowThreshold    = 2 // calls that a second attempt finished: the endpoint is probed by a read
	failureThreshold = 2 // consecutive failures: the endpoint is evicted
	successThreshold = 3 // consecutive successes: the endpoint is readmitted
)

// Balancer is a client that balances calls over endpoints, such as one of client/v3.
type Balancer interface {
	Endpoints() []string
	SetEndpoints(eps ...string)
}

// Prober probes single endpoints, such as a pool of package endpoint.
type Prober interface {
	// Probe makes a health check, and Read a linearizable read.
	Probe(ctx context.Context, ep string) error
	Read(ctx context.Context, ep, key string) error
	// IsBroken reports whether the connection for probes is lost.
	IsBroken(ep string) bool
	// Retain closes the connections to all endpoints other than eps.
	Retain(eps []string)
}

// Config is what a Checker needs. Balancer, Prober, Versions and Logger are required.
type Config struct {
	Balancer Balancer
	Prober   Prober
	Versions *Versions
	Logger   *slog.Logger

	// ReadKey is the key of reads. It need not exist.
	ReadKey string
	// IsDown reports whether all connections for calls are lost. Without it, they never are.
	IsDown func() bool
	// OnFailure is called with each endpoint whose probe fails.
	OnFailure func(ep string)
}

// Checker evicts and readmits the endpoints of a client. It is safe for concurrent use.
//
// Endpoints set by the user take effect at once. client/v3 has no atomic compare-and-set of its
// endpoints, so the Checker compares them immediately before and after each change.
type Checker struct {
	cfg  Config
	wake chan struct{} // holds a value if an endpoint must be probed at once

	mu           sync.Mutex
	states       []*endpointState
	applied      []string // the endpoints set last
	evictions    uint64
	readmissions uint64
	outage       outage.Log    // of the time in which no endpoint answers
	changed      chan struct{} // closed and replaced when an endpoint is evicted
}

// endpointState is the state of one endpoint. The Checker's mu guards it.
type endpointState struct {
	endpoint  string
	successes int // consecutive
	failures  int // consecutive
	err       error
	answered  bool // at least once
	evicted   bool
	log       outage.Log

	probedAt time.Time     // start of the last probe
	interval time.Duration // until the next probe if it is healthy
	probeNow bool          // it must be probed at once
	overdue  bool          // a call there is overdue
	slow     int           // calls that a second attempt elsewhere finished
	// It is probed by reads until one succeeds; if evicted, until it is readmitted.
	byRead bool
}

// New returns a Checker. It probes nothing before Run.
func New(cfg Config) *Checker {
	if cfg.IsDown == nil {
		cfg.IsDown = func() bool { return false }
	}
	if cfg.OnFailure == nil {
		cfg.OnFailure = func(string) {}
	}
	c := &Checker{cfg: cfg, wake: make(chan struct{}, 1), changed: make(chan struct{})}
	c.adopt(cfg.Balancer.Endpoints())
	return c
}

// Run probes the endpoints until ctx ends.
func (c *Checker) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-c.wake:
		}
		start := time.Now()
		c.adoptChanges()
		c.probeRound(ctx, c.nextProbes())
		if ctx.Err() != nil {
			return
		}
		c.apply()
		c.logOutages()
		timer.Reset(c.pause(time.Since(start)))
	}
}

// nextProbes returns the endpoints to probe. If one is suspect, the others that were not probed in
// the last 2 s are probed as well, because it must not be evicted unless another one answers. A
// single endpoint is never evicted. To log outages, it is probed while its last probe has failed or
// its connection is lost, and also while its version is unknown.
func (c *Checker) nextProbes() []*endpointState {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.states) == 1 && !c.cfg.Versions.isDue(c.states[0].endpoint) && c.states[0].failures == 0 && !c.cfg.IsDown() {
		return nil
	}
	now := time.Now()
	suspects := c.suspects()
	var out []*endpointState
	for _, s := range c.states {
		interval := roundInterval
		if len(suspects) == 0 && !s.overdue && s.successes > 0 && !s.evicted && !c.cfg.Prober.IsBroken(s.endpoint) && !c.cfg.Versions.isDue(s.endpoint) {
			interval = s.interval
		}
		if slices.Contains(suspects, s) || now.Sub(s.probedAt) >= interval {
			out = append(out, s)
		}
	}
	return out
}

// ReportOverdue triggers a probe of ep, or of all endpoints if ep is "", because a call there is
// overdue. An endpoint that was probed less than 2 s ago is probed in a later round.
func (c *Checker) ReportOverdue(ep string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.states) == 1 {
		return
	}
	for _, s := range c.states {
		if ep != "" && s.endpoint != ep || s.evicted {
			continue
		}
		if s.overdue = true; time.Since(s.probedAt) >= roundInterval {
			c.notify()
		}
	}
}

// ReportSlow records that a second attempt at another member finished a call to ep. After two of
// them ep is probed by a read.
func (c *Checker) ReportSlow(ep string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.states, func(s *endpointState) bool { return s.endpoint == ep })
	if i < 0 || c.states[i].evicted {
		return
	}
	s := c.states[i]
	s.slow++
	if s.slow < slowThreshold {
		return
	}
	s.slow, s.byRead, s.probeNow = 0, true, true
	c.notify()
}

// notify starts a round.
func (c *Checker) notify() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// suspects returns the endpoints that have failed once or must be probed at once.
func (c *Checker) suspects() []*endpointState {
	var out []*endpointState
	for _, s := range c.states {
		if !s.evicted && (s.probeNow || s.failures > 0 && s.failures < failureThreshold) {
			out = append(out, s)
		}
	}
	return out
}

// probeRound probes endpoints concurrently and records the results.
func (c *Checker) probeRound(ctx context.Context, states []*endpointState) {
	var wg sync.WaitGroup
	for _, s := range states {
		wg.Go(func() {
			bounded, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), probeTimeout)
			defer cancel()
			var err error
			if c.startProbe(s) {
				err = c.cfg.Prober.Read(bounded, s.endpoint, c.cfg.ReadKey)
			} else {
				err = c.cfg.Prober.Probe(bounded, s.endpoint)
			}
			if err == nil {
				c.cfg.Versions.check(bounded, s.endpoint)
			} else {
				c.cfg.Versions.forget(s.endpoint)
				c.cfg.OnFailure(s.endpoint)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			s.record(err)
		})
	}
	wg.Wait()
}

// startProbe records the start of a probe. It reports whether the probe is a read.
func (c *Checker) startProbe(s *endpointState) (byRead bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.probeNow, s.overdue, s.probedAt = false, false, time.Now()
	s.interval = healthyInterval + time.Duration(rand.Int64N(int64(healthyInterval)*2/5)) - healthyInterval/5
	return s.byRead
}

// apply evaluates the probes and sets the client's endpoints if they have changed.
func (c *Checker) apply() {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.applied
	c.evaluate()
	eps := c.inUse()
	if slices.Equal(eps, before) || !slices.Equal(c.cfg.Balancer.Endpoints(), before) {
		return // in the second case they were set elsewhere: the next round adopts them
	}
	c.cfg.Balancer.SetEndpoints(eps...)
	c.applied = eps
	if current := c.cfg.Balancer.Endpoints(); !slices.Equal(current, eps) {
		c.adopt(current) // set elsewhere at the same time: they win
		c.cfg.Prober.Retain(current)
		return
	}
	for _, s := range c.states {
		switch wasInUse := slices.Contains(before, s.endpoint); {
		case wasInUse && s.evicted:
			c.countEviction()
		case !wasInUse && !s.evicted:
			c.readmissions++
		}
	}
}

// pause returns the time until the next round, given how long the last one took.
func (c *Checker) pause(took time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.suspects()) > 0 {
		return max(confirmInterval-took, 0)
	}
	return roundInterval
}
