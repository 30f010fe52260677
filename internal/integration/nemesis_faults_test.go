package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// nemesis breaks things, in an order that its seed determines.
type nemesis struct {
	*stormRun

	rand   *rand.Rand
	counts map[string]int
	spare  []string // faults that are not made
}

// fault is something that the nemesis does, and has put right when it returns.
type fault struct {
	name string
	do   func(t *testing.T)
}

// serverFaults are those of the members and of the network between them.
func (n *nemesis) serverFaults() []fault {
	c := n.cluster
	return []fault{
		{"kill the leader", func(t *testing.T) { killLeader(t, c) }},
		{"kill a member", func(t *testing.T) { n.kill(t, n.member()) }},
		{"kill all members", func(t *testing.T) {
			for _, m := range c.Members {
				m.Kill()
			}
			n.spend(t, 500, 3000)
			for _, m := range c.Members {
				m.Launch()
			}
		}},
		{"freeze the leader", func(t *testing.T) { n.freeze(t, c.Leader(t)) }},
		{"freeze a member", func(t *testing.T) { n.freeze(t, n.member()) }},
		{"freeze two members", func(t *testing.T) {
			i := n.rand.IntN(3)
			n.freeze(t, c.Members[i], c.Members[(i+1)%3])
		}},
		{"restart a member", func(*testing.T) { n.member().Restart() }},
		{"replace a member", func(*testing.T) { c.Replace(n.member()) }},
		{"isolate the leader", func(t *testing.T) { n.isolate(t, c.Leader(t)) }},
		{"isolate a member", func(t *testing.T) { n.isolate(t, n.member()) }},
		{"drop what the leader hears", func(t *testing.T) { n.dropOneWay(t, true) }},
		{"drop what the leader says", func(t *testing.T) { n.dropOneWay(t, false) }},
		{"delay the network between the members", func(t *testing.T) {
			c.Delay(time.Duration(20+n.rand.IntN(100)) * time.Millisecond)
			n.spend(t, 2000, 5000)
			c.HealNetwork()
		}},
		{"move the leadership", n.moveLeader},
		{"defragment", func(t *testing.T) {
			for _, m := range c.Members {
				n.tell(t, func(ctx context.Context) error {
					_, err := n.admin.Defragment(ctx, m.Endpoint())
					return err
				})
			}
		}},
		{"compact", func(t *testing.T) {
			n.spend(t, 500, 2000) // a client that is cut off falls behind
			n.tell(t, func(ctx context.Context) error {
				_, err := n.admin.Compact(ctx, n.truth.rev.Load(), clientv3.WithCompactPhysical())
				if err != nil && strings.Contains(err.Error(), "compacted") {
					return nil
				}
				return err
			})
		}},
		{"raise the alarm of the quota", func(t *testing.T) {
			n.alarm(t, pb.AlarmRequest_ACTIVATE)
			n.spend(t, 500, 2500)
			n.alarm(t, pb.AlarmRequest_DEACTIVATE)
		}},
		{"renew the certificates", func(*testing.T) {
			n.pki.Renew(n.pki.Server)
			n.pki.Renew(n.clientPair)
		}},
		{"change the password", n.changePassword},
	}
}

// clientFaults are those of one process and of its network. Each returns what puts it right.
func (n *nemesis) clientFaults() []struct {
	name  string
	begin func(t *testing.T, p *stormChild) (end func())
} {
	network := func(f func(*etcdtest.Proxy)) func(*testing.T, *stormChild) func() {
		return func(_ *testing.T, p *stormChild) func() {
			p.link.each(f)
			return func() { p.link.each((*etcdtest.Proxy).Heal) }
		}
	}
	return []struct {
		name  string
		begin func(t *testing.T, p *stormChild) (end func())
	}{
		{"cut a client off", network(cutOff)},
		{"swallow the bytes of a client", network(swallow)},
		{"swallow the answers to a client", network(swallowDown)},
		{"swallow the requests of a client", network(func(p *etcdtest.Proxy) { p.Blackhole(true, false) })},
		{"hold the answers to a client", network(func(p *etcdtest.Proxy) { p.Hold(false, true) })},
		{"reset the connections of a client", network((*etcdtest.Proxy).Cut)},
		{"delay the network of a client", network(func(p *etcdtest.Proxy) { p.Delay(100 * time.Millisecond) })},
		{"freeze a client", func(_ *testing.T, p *stormChild) func() {
			p.signal(syscall.SIGSTOP)
			return func() { p.signal(syscall.SIGCONT) }
		}},
		{"kill a client", func(t *testing.T, p *stormChild) func() {
			p.kill(t)
			return func() { n.join(t, p.link) }
		}},
	}
}

// rage breaks things until the time is over. Half of the time a client has a fault of its own
// meanwhile.
func (n *nemesis) rage(t *testing.T, until time.Time) {
	t.Helper()
	servers, clients := n.serverFaults(), n.clientFaults()
	var order []int
	for time.Now().Before(until) && !t.Failed() {
		if len(order) == 0 { // each of them before any comes again
			order = n.rand.Perm(len(servers))
		}
		f := servers[order[0]]
		order = order[1:]
		end := func() {}
		if n.rand.IntN(2) == 0 && f.name != "change the password" {
			one := clients[n.rand.IntN(len(clients))]
			for slices.Contains(n.spare, one.name) {
				one = clients[n.rand.IntN(len(clients))]
			}
			p := n.living()[n.rand.IntN(len(n.living()))]
			t.Logf("%6.1f s: %s, %s", time.Duration(n.clock()).Seconds(), one.name, p.plan.Name)
			n.counts[one.name]++
			end = one.begin(t, p)
		}
		began := time.Now()
		t.Logf("%6.1f s: %s", time.Duration(n.clock()).Seconds(), f.name)
		n.counts[f.name]++
		f.do(t)
		if stormTTL := time.Until(began.Add(stormTTL + 2*time.Second)); n.rand.IntN(2) == 0 {
			spend(t, min(stormTTL, time.Until(until))) // long enough for the sessions of the client
		}
		end()
		n.cluster.WaitReady()
		n.spend(t, 300, 1500)
	}
}

func (n *nemesis) member() *etcdtest.Server { return n.cluster.Members[n.rand.IntN(3)] }

// spend lets between least and most milliseconds pass.
func (n *nemesis) spend(t *testing.T, least, most int) {
	t.Helper()
	spend(t, time.Duration(least+n.rand.IntN(most-least))*time.Millisecond)
}

func (n *nemesis) kill(t *testing.T, m *etcdtest.Server) {
	t.Helper()
	m.Kill()
	n.spend(t, 1, 2000)
	m.Launch()
}

func (n *nemesis) freeze(t *testing.T, members ...*etcdtest.Server) {
	t.Helper()
	leader := n.cluster.Leader(t)
	for _, m := range members {
		m.Pause()
	}
	n.spend(t, 1000, 6000)
	t.Logf("%6.1f s: continue", time.Duration(n.clock()).Seconds())
	for _, m := range members {
		if m == leader {
			n.resumed = append(n.resumed, n.clock())
		}
		m.Resume()
	}
}

func (n *nemesis) isolate(t *testing.T, m *etcdtest.Server) {
	t.Helper()
	n.cluster.Isolate(m)
	n.spend(t, 2000, 8000)
	n.cluster.HealNetwork()
}

func (n *nemesis) dropOneWay(t *testing.T, to bool) {
	t.Helper()
	leader := n.cluster.Leader(t)
	for _, m := range n.cluster.Members {
		switch {
		case m == leader:
		case to:
			n.cluster.Drop(m, leader)
		default:
			n.cluster.Drop(leader, m)
		}
	}
	n.spend(t, 2000, 6000)
	n.cluster.HealNetwork()
}

// tell asks the cluster for something until it agrees, 10 s at most: it may be busy with the last
// fault.
func (n *nemesis) tell(t *testing.T, f func(ctx context.Context) error) {
	t.Helper()
	var err error
	require.Eventually(t, func() bool {
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		err = f(ctx)
		return err == nil
	}, 20*time.Second, 100*time.Millisecond, "%v", err)
}

func (n *nemesis) moveLeader(t *testing.T) {
	leader := n.cluster.Leader(t)
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	status, err := n.admin.Status(ctx, leader.Endpoint())
	if err != nil {
		return
	}
	list, err := n.admin.MemberList(ctx)
	if err != nil {
		return
	}
	cli := leader.Client(t, n.asRoot)
	defer cli.Close()
	for _, m := range list.Members {
		if m.ID != status.Header.MemberId {
			_, _ = cli.MoveLeader(ctx, m.ID) // it may have lost it by now
			return
		}
	}
}

// alarm makes the cluster behave as if its quota were exceeded.
func (n *nemesis) alarm(t *testing.T, action pb.AlarmRequest_AlarmAction) {
	t.Helper()
	n.tell(t, func(ctx context.Context) error {
		stub := clientv3.RetryMaintenanceClient(n.admin, n.admin.ActiveConnection())
		for _, m := range n.memberIDs(ctx) {
			r := &pb.AlarmRequest{Action: action, MemberID: m, Alarm: pb.AlarmType_NOSPACE}
			if _, err := stub.Alarm(ctx, r); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
}

func (n *nemesis) memberIDs(ctx context.Context) (ids []uint64) {
	list, err := n.admin.MemberList(ctx)
	if err != nil {
		return nil
	}
	for _, m := range list.Members {
		ids = append(ids, m.ID)
	}
	return ids
}

// changePassword changes the password of the library's clients, in etcd and in the file that they
// read.
func (n *nemesis) changePassword(t *testing.T) {
	n.passwords++
	password := fmt.Sprintf("%s %d", stormPassword, n.passwords)
	require.NoError(t, os.WriteFile(n.passwordFile+".new", []byte(password), 0o600))
	require.NoError(t, os.Rename(n.passwordFile+".new", n.passwordFile))
	n.tell(t, func(ctx context.Context) error {
		_, err := n.admin.UserChangePassword(ctx, stormUser, password)
		return err
	})
}

// stormChild is a process of the storm.
type stormChild struct {
	*childProcess

	run    *stormRun
	plan   stormPlan
	link   link
	stalls [][2]int64 // when it could not run, as it has recorded it
	killed [2]int64   // just before and just after; 0 if it was not
}

func (p *stormChild) kill(t *testing.T) {
	t.Helper()
	p.killed[0] = p.run.clock()
	p.signal(syscall.SIGKILL)
	for range p.lines { // until it is gone
	}
	p.killed[1] = p.run.clock()
}

// lastMoment returns when a process that relied on something from one time until another would have
// noticed its loss if it had not stalled. Since the first stall that counts, the process must have
// run for no longer than noticeTime in all.
func (p *stormChild) lastMoment(from, until int64) int64 {
	const noticeTime = int64(50 * time.Millisecond)
	moment, at, ran := until, until, int64(0)
	for _, stall := range slices.Backward(p.stalls) {
		begin, end := max(stall[0], from), min(stall[1], at)
		if begin >= end {
			continue
		}
		if ran += at - end; ran > noticeTime {
			break
		}
		moment -= end - begin
		at = begin
	}
	return moment
}
