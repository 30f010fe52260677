package discovery_test

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

// addrs are the addresses that a connection was told of, one list for each time.
func (c *fakeConn) addrs() [][]string {
	out := [][]string{}
	for _, s := range c.states.All() {
		list := []string{}
		for _, e := range s.Endpoints {
			list = append(list, e.Addresses[0].Addr)
		}
		out = append(out, list)
	}
	return out
}

func TestResolver_ReportsEachChangeOnce(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t))
	key := "services/echo/instances/a"
	c, _ := resolve(t, r, "echo")
	nobody := func() (n int) {
		for _, err := range c.errs.All() {
			if errors.Is(err, discovery.ErrNoInstance) { // not: that etcd has not answered yet
				n++
			}
		}
		return n
	}
	errs := func(n int) {
		t.Helper()
		parttest.Eventually(t, func() bool { return nobody() == n })
	}
	states := func(n int) {
		t.Helper()
		parttest.Eventually(t, func() bool { return len(c.states.All()) == n })
	}
	errs(1)
	assert.Empty(t, c.states.All(), "there is nothing to tell")
	put(t, p, key, `{"host":"h","port":1}`)
	states(1)
	put(t, p, "services/echo/instances/b", `{"host":"h","port":2,"status":"draining"}`) // no news for gRPC
	put(t, p, key, `{"host":"h","port":1,"status":"draining"}`)
	states(2)
	_, err := p.Raw.Delete(t.Context(), p.Dir+key)
	require.NoError(t, err)
	states(3)
	put(t, p, key, `{"host":"h","port":3}`)
	states(4)
	_, err = p.Raw.Delete(t.Context(), p.Dir, clientv3.WithPrefix())
	require.NoError(t, err)
	errs(2)
	put(t, p, key, `{"host":"h","port":4}`)
	states(6)
	assert.Equal(t, [][]string{{"h:1"}, {"h:1", "h:2"}, {"h:2"}, {"h:3"}, {}, {"h:4"}}, c.addrs())
	assert.Equal(t, 2, nobody())
}

func TestResolver_AttributeChangeKeepsConnection(t *testing.T) {
	t.Parallel()
	r, _ := newProcess(t, etcdtest.Prefix(t))
	one, two := serve(t, "one"), serve(t, "two")
	reg := register(t, r, one.instance("echo"), discovery.WithDrainDelay(0))
	register(t, r, two.instance("echo"))
	conn := dial(t, "etcd:///echo", r.Resolver())
	parttest.Eventually(t, func() bool { return len(countAnswers(t, conn, 4)) == 2 })
	received, _ := resolve(t, r, "echo") // is told of changes when conn is, or 50 ms before or after
	for n := range 5 {
		i := one.instance("echo")
		i.Version, i.Weight, i.Zone, i.Tags, i.Metadata = strconv.Itoa(n), n, "z", []string{"t"}, map[string]string{"n": strconv.Itoa(n)}
		require.NoError(t, reg.Update(withTestTimeout(t), i))
		parttest.Eventually(t, func() bool {
			all := received.states.All()
			if len(all) == 0 {
				return false
			}
			i, ok := discovery.InstanceOf(all[len(all)-1].Endpoints[0])
			return ok && i.Version == strconv.Itoa(n)
		})
		assert.Len(t, countAnswers(t, conn, 20), 2)
	}
	assert.Equal(t, int64(1), one.accepted.Load())
	assert.Equal(t, int64(1), two.accepted.Load())
	assert.Equal(t, "echo", one.authority.Load())
}

func TestResolver_CloseAtAnyTime(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t))
	done := make(chan struct{})
	var writer, all sync.WaitGroup
	writer.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
				put(t, p, "services/echo/instances/"+strconv.Itoa(n%3), fmt.Sprintf(`{"host":"h","port":%d}`, n%1000+1))
			}
		}
	})
	for range 10 {
		all.Go(func() {
			for n := range shortOrLong(10, 100) {
				c, res := resolve(t, r, "echo")
				for range 100 * (n % 4) {
					res.ResolveNow(resolver.ResolveNowOptions{})
				}
				if n%2 == 0 {
					parttest.Eventually(t, func() bool { return len(c.states.All()) > 0 })
				}
				res.Close()
				received := len(c.states.All()) + len(c.errs.All())
				res.ResolveNow(resolver.ResolveNowOptions{})
				res.Close()
				assert.Len(t, c.states.All(), received-len(c.errs.All()), "nothing is told after Close")
				for _, addrs := range c.addrs() {
					assert.NotEmpty(t, addrs)
				}
			}
		})
	}
	all.Wait()
	close(done)
	writer.Wait()
	parttest.Eventually(t, func() bool { return p.Watcher().Stats().ServerWatches == 0 })
}

func TestResolver_OpenViewServesIdleConnections(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	direct, _ := newRegistry(t, srv.Client(t, parttest.Harden), "app")
	r, _ := newRegistry(t, etcdtest.NewClient(t, proxy.Endpoints(), parttest.Harden), "app")
	register(t, direct, serve(t, "one").instance("echo"))
	waitForInstances(t, view(t, r, "echo"), "one")
	conn := dial(t, "etcd:///echo", r.Resolver(), grpc.WithIdleTimeout(time.Second))
	countAnswers(t, conn, 1)
	for state := conn.GetState(); state != connectivity.Idle; state = conn.GetState() {
		require.True(t, conn.WaitForStateChange(withTestTimeout(t), state))
	}
	proxy.Refuse()
	proxy.Cut()
	countAnswers(t, conn, 1)
	proxy.Accept()
}
