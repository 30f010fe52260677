package etcdtest

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Cluster is a cluster of etcd processes of one test. Each member can be paused, killed and
// restarted by itself.
type Cluster struct {
	Members []*Server

	t       testing.TB
	network *network // nil without WithNetwork
}

// StartCluster runs n members with etcd's default timing and returns when each answers. They are
// gone when the test ends.
func StartCluster(tb testing.TB, n int, opts ...Option) *Cluster {
	tb.Helper()
	var cfg config
	for _, opt := range opts {
		opt(&cfg)
	}
	c := &Cluster{t: tb}
	members := make([]*member, 0, n)
	for i := range n {
		m, err := newMember("m"+strconv.Itoa(i+1), cfg)
		must(tb, err)
		tb.Cleanup(m.discard)
		members = append(members, m)
		c.Members = append(c.Members, &Server{t: tb, member: m})
	}
	if cfg.network {
		c.network = newNetwork(tb, members)
	}
	must(tb, startMembers(tb.Context(), members, c.network))
	return c
}

// Endpoints are the URLs of all members.
func (c *Cluster) Endpoints() []string {
	eps := make([]string, 0, len(c.Members))
	for _, s := range c.Members {
		eps = append(eps, s.Endpoint())
	}
	return eps
}

// Client returns a plain client of the whole cluster, closed when the test ends.
func (c *Cluster) Client(tb testing.TB, opts ...func(*clientv3.Config)) *clientv3.Client {
	tb.Helper()
	all := func(cfg *clientv3.Config) { cfg.Endpoints = c.Endpoints() }
	return c.Members[0].Client(tb, append([]func(*clientv3.Config){all}, opts...)...)
}

// WaitReady returns when every running member answers a linearizable read. It waits 30 s at most.
func (c *Cluster) WaitReady() {
	c.t.Helper()
	for _, s := range c.Members {
		if s.Running() {
			s.WaitReady()
		}
	}
}

// Leader returns the member that leads, and waits up to 30 s for one to be elected. It asks the
// members that run; a paused one cannot answer and costs a second.
func (c *Cluster) Leader(tb testing.TB) *Server {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), readyTimeout)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		for _, s := range c.Members {
			if s.Running() && s.leads(ctx) {
				return s
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			tb.Fatalf("etcdtest: no member leads: %v", context.Cause(ctx))
		}
	}
}

// leads reports whether the member holds the leadership and can still prove it to a majority.
func (s *Server) leads(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	page, err := s.member.fetch(ctx, "/metrics")
	if err != nil || !strings.Contains(page, "\netcd_server_is_leader 1\n") {
		return false
	}
	_, err = s.member.fetch(ctx, "/health?exclude=NOSPACE&exclude=CORRUPT")
	return err == nil
}

// Replace kills a member, removes it from the cluster, and adds it again without its data. It
// returns when the member answers. The others must have a quorum.
func (c *Cluster) Replace(s *Server) {
	c.t.Helper()
	s.Kill()
	must(c.t, s.member.removeData())
	ctx, cancel := context.WithTimeout(c.t.Context(), readyTimeout)
	defer cancel()
	var others []string
	for _, other := range c.Members {
		if other != s {
			others = append(others, other.Endpoint())
		}
	}
	admin := c.admin(ctx, others)
	var id uint64
	c.retry(ctx, func(ctx context.Context) error {
		list, err := admin.MemberList(ctx)
		if err != nil {
			return err
		}
		for _, m := range list.Members {
			if m.Name == s.member.name {
				id = m.ID
			}
		}
		return nil
	})
	// The cluster refuses to change its members until all are connected, and an answer may be lost.
	c.retry(ctx, func(ctx context.Context) error {
		_, err := admin.MemberRemove(ctx, id)
		if errors.Is(err, rpctypes.ErrMemberNotFound) {
			return nil
		}
		return err
	})
	c.retry(ctx, func(ctx context.Context) error {
		_, err := admin.MemberAdd(ctx, []string{s.member.peerURL()})
		if errors.Is(err, rpctypes.ErrPeerURLExist) {
			return nil
		}
		return err
	})
	s.member.joins = true
	s.Launch()
	s.WaitReady()
}

// admin returns a client of some members that may do everything.
func (c *Cluster) admin(ctx context.Context, endpoints []string) (cli *clientv3.Client) {
	c.t.Helper()
	cfg, login := c.Members[0].clientConfig(), func(*clientv3.Config) {}
	cfg.Endpoints = endpoints
	for _, s := range c.Members {
		if s.as != nil {
			login = s.as
			break
		}
	}
	c.retry(ctx, func(context.Context) (err error) { // the login fails while the leader changes
		cli, err = connect(c.t, cfg, login)
		return err
	})
	return cli
}

// retry calls f, with a timeout of its own each time, until it succeeds or ctx ends.
func (c *Cluster) retry(ctx context.Context, f func(ctx context.Context) error) {
	c.t.Helper()
	const attemptTimeout, interval = 3 * time.Second, 100 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	var err error
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			c.t.Fatalf("etcdtest: %v: %v", context.Cause(ctx), err)
		}
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		err = f(attempt)
		cancel()
		if err == nil {
			return
		}
		timer.Reset(interval)
	}
}

// Wipe kills all members and starts them without their data: the cluster ID stays, the revision
// begins at 1 again.
func (c *Cluster) Wipe() {
	c.t.Helper()
	for _, s := range c.Members {
		s.Kill()
		must(c.t, s.member.removeData())
		s.as = nil
	}
	for _, s := range c.Members {
		s.Launch()
	}
	c.WaitReady()
}
