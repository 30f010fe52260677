package etcdkit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/outage"
)

// SetEndpoints replaces the endpoints of the client. Connections to endpoints that are on both
// lists stay open, and an evicted endpoint stays evicted until it answers again. Use it instead of
// SetEndpoints of [Client.Raw], which ignores evictions.
//
// SetEndpoints sends nothing. It returns an error that matches [ErrInvalid], and changes nothing,
// if an endpoint is invalid or needs other TLS settings than those the client was opened with. It
// also does so after [Wrap], whose caller owns the endpoints.
func (c *Client) SetEndpoints(endpoints ...string) error {
	const op = "set endpoints"
	if c.isClosed() {
		return refuse(op, errClientClosed)
	}
	if c.patrol == nil {
		return refuse(op, fmt.Errorf("%w: the endpoints are those of the client that was given to Wrap", ErrInvalid))
	}
	var bad complaints
	eps := parseEndpoints(endpoints, &bad)
	for _, e := range eps {
		if e.secure() && c.set.tls == nil {
			bad.add("endpoint %s says https, but the client was opened without TLS", e)
		}
	}
	list := checkEndpoints(eps, c.set.tls != nil, c.auth != nil && !c.set.cfg.AllowInsecureCredentials, &bad)
	if err := bad.err(op); err != nil {
		return err
	}
	c.patrol.replace(list)
	return nil
}

// replace sets the endpoints of the client. Evicted ones that stay on the list stay evicted.
func (p *patrol) replace(eps []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	evicted := map[string]bool{}
	for _, one := range p.posts {
		evicted[one.ep] = one.out
	}
	p.take(eps)
	for _, one := range p.posts {
		one.out = evicted[one.ep]
	}
	if len(p.in()) == 0 {
		for _, one := range p.posts {
			one.out = false
		}
	}
	p.applied = p.in()
	p.cli.SetEndpoints(p.applied...)
	p.keep(eps)
}

// errOtherCluster means that a list of members is from another cluster than the one the client was
// opened with.
var errOtherCluster = errors.New("the list of members is that of another cluster")

// errNoMemberURL means that no member has a client URL that suits the client's TLS settings.
var errNoMemberURL = errors.New("no member has a client URL that the client can use")

// endpointSync periodically replaces the endpoints of a client by the client URLs of the members.
type endpointSync struct {
	client *Client
	every  time.Duration
	done   chan struct{} // closed when run has returned
	log    outage.Log
}

// run synchronizes the endpoints until ctx ends.
func (s *endpointSync) run(ctx context.Context) {
	defer close(s.done)
	for {
		jitter := time.Duration(rand.Int64N(int64(s.every)/10 + 1))
		timer := time.NewTimer(s.every + jitter)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		err := s.sync(ctx)
		if ctx.Err() != nil {
			return
		}
		begins, ends, lasted := s.log.Update(err != nil, time.Now())
		switch {
		case begins:
			s.client.set.logger.WarnContext(ctx, "etcd endpoints cannot be synchronized", "error", err)
		case ends:
			s.client.set.logger.WarnContext(ctx, "etcd endpoints are synchronized again", "after", lasted)
		}
	}
}

// sync fetches the list of members and sets their client URLs as endpoints if at least one of them
// answers. It returns errOtherCluster if the list is from another cluster.
func (s *endpointSync) sync(ctx context.Context) error {
	c := s.client
	ctx, cancel := context.WithTimeout(ctx, time.Duration(c.set.cfg.DialTimeout))
	defer cancel()
	resp, err := c.cli.MemberList(ctx)
	if err != nil {
		return err
	}
	if id, want := resp.Header.GetClusterId(), c.versions.clusterID(); want != 0 && id != want {
		return fmt.Errorf("%w: %x instead of %x", errOtherCluster, id, want)
	}
	before := c.endpoints()
	urls := memberURLs(resp.Members, before, c.set.tls != nil)
	if len(urls) == 0 {
		return errNoMemberURL
	}
	if sameEndpoints(before, urls) {
		return nil
	}
	if err := c.anyAnswers(ctx, urls); err != nil {
		c.lines.keep(before)
		return fmt.Errorf("none of the members' client URLs answers: %w", err)
	}
	if err := c.SetEndpoints(urls...); err != nil {
		return err
	}
	c.set.logger.InfoContext(ctx, "etcd endpoints replaced", "endpoints", urls)
	return nil
}

// memberURLs returns the client URLs of the voting members that suit a client with or without TLS.
// The URL of an endpoint in use keeps its current spelling.
func memberURLs(members []*pb.Member, before []string, secure bool) []string {
	var urls []string
	for _, m := range members {
		if m.GetIsLearner() {
			continue // a learner serves no linearizable reads and no writes
		}
		for _, url := range m.GetClientURLs() {
			e, err := parseEndpoint(url)
			if err != nil || secure && e.plain() || !secure && e.secure() {
				continue
			}
			url = e.String()
			if i := slices.IndexFunc(before, func(ep string) bool { return sameAddress(url, ep) }); i >= 0 {
				url = before[i]
			}
			if !slices.Contains(urls, url) {
				urls = append(urls, url)
			}
		}
	}
	return urls
}

// sameEndpoints reports whether two lists contain the same endpoints in any order.
func sameEndpoints(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// anyAnswers returns nil if one of eps answers, and otherwise the error of each.
func (c *core) anyAnswers(ctx context.Context, eps []string) error {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), patrolWithin)
	defer cancel()
	errs := make(endpointErrors, len(eps))
	var wg sync.WaitGroup
	for i, ep := range eps {
		wg.Go(func() { errs[i] = &EndpointError{Endpoint: ep, Err: c.lines.probe(ctx, ep)} })
	}
	wg.Wait()
	if slices.ContainsFunc(errs, func(e *EndpointError) bool { return e.Err == nil }) {
		return nil
	}
	return errs
}
