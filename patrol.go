package etcdkit

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
	patrolEvery  = 2 * time.Second        // between two rounds, and two probes of an unhealthy endpoint
	patrolQuiet  = 60 * time.Second       // ±20 %, between two probes of a healthy endpoint, unless a call is overdue there
	patrolWithin = time.Second            // for one probe
	patrolSoon   = 500 * time.Millisecond // from the first failure to the second probe
	maxSlower    = 2                      // calls finished elsewhere trigger a probe by a read
	failuresOut  = 2                      // consecutive failures evict an endpoint
	successesIn  = 3                      // consecutive successes readmit it
)

// balanced is the part of a client that the patrol uses: the endpoints over which calls are
// balanced.
type balanced interface {
	Endpoints() []string
	SetEndpoints(eps ...string)
}

// patrol evicts endpoints that do not answer. gRPC avoids endpoints that it cannot connect to. But
// a member that is frozen or partitioned from its peers keeps its connections, and would continue
// to receive its share of all calls.
//
// Each endpoint is probed over its own connection, with require-leader: about once a minute; at
// once if a call, a renewal or a watch there is overdue or the connection is lost; and every 2 s
// while it is unhealthy. Two consecutive failures evict an endpoint, three consecutive successes
// readmit it. An endpoint that was twice slower than another is probed by a read, and a single
// failure of that evicts it unless the member has no leader. An endpoint that has never answered is
// admitted by its first success. The last endpoint that answers is never evicted. If no endpoint
// answers twice in a row, all are readmitted.
//
// Endpoints set by the user take effect at once. client/v3 has no atomic compare-and-set of its
// endpoints, so the patrol compares them immediately before and after each change.
type patrol struct {
	cli    balanced
	probe  func(ctx context.Context, ep string) error
	read   func(ctx context.Context, ep string) error // makes a linearizable read
	keep   func(eps []string)
	logger *slog.Logger
	wake   chan struct{} // holds a value if an endpoint must be probed at once

	versions *versionChecker      // checks the members that answer
	isDown   func() bool          // reports whether all connections for calls are lost
	isBroken func(ep string) bool // reports whether the connection for probes is lost
	failed   func(ep string)      // called with each endpoint whose probe fails
	done     chan struct{}        // closed when the patrol has ended; nil if it never ran

	mu         sync.Mutex
	posts      []*post
	applied    []string // the endpoints set last
	evicted    uint64
	readmitted uint64
	silence    outage.Log    // of the time in which no endpoint answers
	changed    chan struct{} // closed and replaced when an endpoint is evicted
}

// post is the state of one endpoint. The patrol's mu guards it.
type post struct {
	ep           string
	good, failed int           // consecutive probes
	known        bool          // it has answered before
	out          bool          // evicted
	slower       int           // calls finished by a second attempt elsewhere
	asked        time.Time     // start of the last probe
	rest         time.Duration // until the next probe if it is healthy
	byRead       bool          // probed by reads until one succeeds; if evicted, until it is readmitted
	now          bool          // must be probed at once
	overdue      bool          // a call there is overdue
	log          outage.Log
	err          error // of the last probe
}

// newPatrol returns a patrol that is not running.
func newPatrol(cli balanced, probe func(ctx context.Context, ep string) error, keep func(eps []string), v *versionChecker, l *slog.Logger) *patrol {
	p := &patrol{
		cli: cli, probe: probe, read: probe, keep: keep, versions: v, logger: l, isDown: func() bool { return false },
		isBroken: func(string) bool { return false }, failed: func(string) {},
		wake: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	p.take(cli.Endpoints())
	return p
}

// take replaces the endpoints. The state of those that are kept stays, but they are in use again.
func (p *patrol) take(eps []string) {
	old := p.posts
	p.posts = nil
	for _, ep := range eps {
		i := slices.IndexFunc(old, func(o *post) bool { return o.ep == ep })
		if i < 0 {
			p.posts = append(p.posts, &post{ep: ep})
			continue
		}
		old[i].out = false
		p.posts = append(p.posts, old[i])
	}
	p.applied = eps
}

// leaveOut evicts endpoints that have not answered Open.
func (p *patrol) leaveOut(rest endpointErrors) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range rest {
		for _, one := range p.posts {
			if one.ep == e.Endpoint {
				one.out, one.err, one.failed = true, e.Err, failuresOut
				p.leave()
			}
		}
	}
	p.applied = p.in()
}

// leave counts an eviction and closes changed.
func (p *patrol) leave() {
	p.evicted++
	close(p.changed)
	p.changed = make(chan struct{})
}

// enter counts a readmission.
func (p *patrol) enter() {
	p.readmitted++
}

// everything readmits all endpoints and returns them.
func (p *patrol) everything() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.posts {
		if one.out {
			one.out = false
			p.enter()
		}
	}
	p.applied = p.in()
	return p.applied
}

// start runs the patrol until ctx ends.
func (p *patrol) start(ctx context.Context) {
	p.done = make(chan struct{})
	go p.run(ctx)
}

// wait waits until the patrol has ended.
func (p *patrol) wait() {
	if p.done != nil {
		<-p.done
	}
}

func (p *patrol) run(ctx context.Context) {
	defer close(p.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-p.wake:
		}
		began := time.Now()
		p.adopt()
		p.round(ctx, p.due())
		if ctx.Err() != nil {
			return
		}
		p.apply()
		p.logOutages()
		timer.Reset(p.pause(time.Since(began)))
	}
}

// adopt takes over endpoints that were set directly on the client/v3 client.
func (p *patrol) adopt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.cli.Endpoints()
	if slices.Equal(now, p.applied) {
		return
	}
	p.take(now)
	p.keep(now)
}

// due returns the endpoints to probe. If one is suspect, the others that were not probed in the
// last 2 s are probed too, because it is evicted only if another one answers. A single endpoint is
// never evicted: it is probed only while its version is unknown, its last probe has failed or its
// connection is lost, for the log.
func (p *patrol) due() []*post {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.posts) == 1 && !p.versions.isDue(p.posts[0].ep) && p.posts[0].failed == 0 && !p.isDown() {
		return nil
	}
	now := time.Now()
	suspects := p.suspects()
	var out []*post
	for _, one := range p.posts {
		interval := patrolEvery
		if len(suspects) == 0 && !one.overdue && one.good > 0 && !one.out && !p.isBroken(one.ep) && !p.versions.isDue(one.ep) {
			interval = one.rest
		}
		if slices.Contains(suspects, one) || now.Sub(one.asked) >= interval {
			out = append(out, one)
		}
	}
	return out
}

// overdue triggers a probe of ep, or of all endpoints if ep is "", because a call there is overdue.
// An endpoint that was probed less than 2 s ago is probed in a later round.
func (p *patrol) overdue(ep string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.posts) == 1 {
		return
	}
	for _, one := range p.posts {
		if ep != "" && one.ep != ep || one.out {
			continue
		}
		if one.overdue = true; time.Since(one.asked) >= patrolEvery {
			select {
			case p.wake <- struct{}{}:
			default:
			}
		}
	}
}

// slower records that a second attempt at another member finished a call to ep. After two of them
// ep is probed by a read.
func (p *patrol) slower(ep string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.posts, func(one *post) bool { return one.ep == ep })
	if i < 0 || p.posts[i].out {
		return
	}
	one := p.posts[i]
	one.slower++
	if one.slower < maxSlower {
		return
	}
	one.slower, one.byRead, one.now = 0, true, true
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// evictedAt reports whether ep is evicted. If not, changed is closed on the next eviction of any
// endpoint.
func (p *patrol) evictedAt(ep string) (evicted bool, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.posts, func(one *post) bool { return one.ep == ep && one.out }), p.changed
}

// suspects returns the endpoints that have failed once or must be probed at once.
func (p *patrol) suspects() []*post {
	var out []*post
	for _, one := range p.posts {
		if !one.out && (one.now || one.failed > 0 && one.failed < failuresOut) {
			out = append(out, one)
		}
	}
	return out
}

// round probes the posts concurrently and records the results.
func (p *patrol) round(ctx context.Context, posts []*post) {
	var wg sync.WaitGroup
	for _, one := range posts {
		wg.Go(func() {
			bounded, stop := context.WithTimeout(clientv3.WithRequireLeader(ctx), patrolWithin)
			defer stop()
			probe := p.begin(one)
			err := probe(bounded, one.ep)
			if err == nil {
				p.versions.check(bounded, one.ep)
			} else {
				p.versions.forget(one.ep)
				p.failed(one.ep)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			one.note(err)
		})
	}
	wg.Wait()
}

// begin records the start of a probe of one and returns the function to probe with.
func (p *patrol) begin(one *post) func(ctx context.Context, ep string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	one.now, one.overdue, one.asked = false, false, time.Now()
	one.rest = patrolQuiet + time.Duration(rand.Int64N(int64(patrolQuiet)*2/5)) - patrolQuiet/5
	if one.byRead {
		return p.read
	}
	return p.probe
}

// several reports whether there is more than one endpoint.
func (p *patrol) several() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.posts) > 1
}

// inUse returns the endpoints that are not evicted.
func (p *patrol) inUse() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.in()
}

// in is inUse for callers that hold mu.
func (p *patrol) in() []string {
	var out []string
	for _, one := range p.posts {
		if !one.out {
			out = append(out, one.ep)
		}
	}
	return out
}

// apply evaluates the probes and sets the client's endpoints if they have changed.
func (p *patrol) apply() {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.applied
	p.judge()
	now := p.in()
	if slices.Equal(now, was) || !slices.Equal(p.cli.Endpoints(), was) {
		return // in the second case they were set elsewhere: the next round adopts them
	}
	p.cli.SetEndpoints(now...)
	p.applied = now
	if theirs := p.cli.Endpoints(); !slices.Equal(theirs, now) {
		p.take(theirs) // set elsewhere at the same time: they win
		p.keep(theirs)
		return
	}
	for _, one := range p.posts {
		switch before := slices.Contains(was, one.ep); {
		case before && one.out:
			p.leave()
		case !before && !one.out:
			p.enter()
		}
	}
}

// pause returns the time until the next round, given how long the last one took.
func (p *patrol) pause(took time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.suspects()) > 0 {
		return max(patrolSoon-took, 0)
	}
	return patrolEvery
}

// endpoints returns all endpoints, including evicted ones, or those that were set directly on the
// client/v3 client since the last round.
func (p *patrol) endpoints() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.cli.Endpoints(); !slices.Equal(now, p.applied) {
		return now
	}
	out := make([]string, len(p.posts))
	for i, one := range p.posts {
		out[i] = one.ep
	}
	return out
}
