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
	patrolEvery  = 2 * time.Second        // between two rounds, and two probes of an endpoint that is not well
	patrolQuiet  = 60 * time.Second       // ±20 %, between two probes of one that is well, unless something is overdue there
	patrolWithin = time.Second            // for an answer
	patrolSoon   = 500 * time.Millisecond // from a first failure to the second look
	maxSlower    = 2                      // calls settled elsewhere have an endpoint probed by a read
	failuresOut  = 2                      // in a row put an endpoint out
	successesIn  = 3                      // in a row bring it back
)

// balanced is what the patrol needs of a client: the endpoints that calls are spread over.
type balanced interface {
	Endpoints() []string
	SetEndpoints(eps ...string)
}

// patrol evicts endpoints that do not answer. gRPC itself avoids those that it cannot connect to. A member that is frozen,
// or cut off from its peers, keeps its connections and would otherwise keep its share of all calls.
//
// Each endpoint is probed over a connection of its own, with require-leader: about once a minute, at once when a call, a
// renewal or a watch there is overdue or that connection is lost, and every 2 s while it is not well. Two failures in a
// row evict it, three successes readmit it; one that has never answered is admitted by its first success. The last
// endpoint that answers is never evicted. If none answers twice in a row, all are readmitted: the fault is not theirs.
// Endpoints set by the user take effect at once. client/v3 cannot compare and set its endpoints, so the client is asked
// right before and right after each change.
type patrol struct {
	cli    balanced
	probe  func(ctx context.Context, ep string) error
	read   func(ctx context.Context, ep string) error // a linearizable read
	keep   func(eps []string)
	logger *slog.Logger
	wake   chan struct{} // holds a value when an endpoint has to be probed at once

	versions *versionChecker      // of the members that answer
	isDown   func() bool          // reports whether all connections of calls are lost
	isBroken func(ep string) bool // reports whether the connection for probes is lost
	failed   func(ep string)      // is told of probes that fail
	done     chan struct{}        // closed when the patrol has ended; nil when it never ran

	mu         sync.Mutex
	posts      []*post
	applied    []string // as set last
	evicted    uint64
	readmitted uint64
	silence    outage.Log    // no endpoint answers
	changed    chan struct{} // closed, and made anew, when an endpoint is left out
}

// post is one endpoint under patrol. Its fields are guarded by the patrol's lock.
type post struct {
	ep           string
	good, failed int           // probes in a row
	known        bool          // it has answered before
	out          bool          // left out
	slower       int           // calls that were settled elsewhere
	asked        time.Time     // when it was probed last
	rest         time.Duration // until it is probed again if all is well
	byRead       bool          // it is probed by reads until it has answered one, and comes back by reads only
	now          bool          // it is to be probed at once
	overdue      bool          // something there is overdue
	log          outage.Log
	err          error // of the last probe
}

// newPatrol returns a patrol that does not run yet.
func newPatrol(cli balanced, probe func(ctx context.Context, ep string) error, keep func(eps []string), v *versionChecker, l *slog.Logger) *patrol {
	p := &patrol{
		cli: cli, probe: probe, read: probe, keep: keep, versions: v, logger: l, isDown: func() bool { return false },
		isBroken: func(string) bool { return false }, failed: func(string) {},
		wake: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	p.take(cli.Endpoints())
	return p
}

// take puts eps under patrol instead of what was.
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

// leaveOut starts with some endpoints out, because they have not answered so far.
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

// leave notes that an endpoint is no longer in use.
func (p *patrol) leave() {
	p.evicted++
	close(p.changed)
	p.changed = make(chan struct{})
}

// enter notes that an endpoint is in use again.
func (p *patrol) enter() {
	p.readmitted++
}

// everything takes all endpoints back into use and returns them.
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

// wait returns when the patrol has ended.
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

// adopt notices endpoints that were set by somebody else.
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

// due lists the endpoints to ask. While one is suspect the others are asked as well, since it is put out only if another one
// answers. A single one could not be left out: it is asked for its version, and while its connection is lost, for the log.
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

// overdue has ep probed at once, or all endpoints if it is "", since something there is overdue. An endpoint that was probed
// a moment ago is probed 2 s after that.
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

// slower notes that a call at ep was settled by a second attempt at another member, and has ep probed by a read when that
// has happened twice.
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

// evictedAt reports whether ep is left out. If not, changed is closed when an endpoint is.
func (p *patrol) evictedAt(ep string) (evicted bool, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.posts, func(one *post) bool { return one.ep == ep && one.out }), p.changed
}

// suspects are the endpoints that have failed once, or were slower than others.
func (p *patrol) suspects() []*post {
	var out []*post
	for _, one := range p.posts {
		if !one.out && (one.now || one.failed > 0 && one.failed < failuresOut) {
			out = append(out, one)
		}
	}
	return out
}

// round asks the posts, all at once, and notes their answers.
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

// begin returns what one is to be probed with now.
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

// inUse lists the endpoints that are not out.
func (p *patrol) inUse() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.in()
}

// in lists the endpoints that are not out. The lock is held.
func (p *patrol) in() []string {
	var out []string
	for _, one := range p.posts {
		if !one.out {
			out = append(out, one.ep)
		}
	}
	return out
}

// apply judges, and tells the client if that changed anything.
func (p *patrol) apply() {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.applied
	p.judge()
	now := p.in()
	if slices.Equal(now, was) || !slices.Equal(p.cli.Endpoints(), was) {
		return // the second: somebody has just set others, which the next round adopts
	}
	p.cli.SetEndpoints(now...)
	p.applied = now
	if theirs := p.cli.Endpoints(); !slices.Equal(theirs, now) {
		p.take(theirs) // set in this very moment: they are the ones from now on
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

// pause is the time to the next round, of one that took the given time.
func (p *patrol) pause(took time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.suspects()) > 0 {
		return max(patrolSoon-took, 0)
	}
	return patrolEvery
}

// endpoints lists all endpoints under patrol, or those set meanwhile by somebody else.
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
