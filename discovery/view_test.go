package discovery_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

func TestOpenService_ViewsShareWatch(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t))
	views := make([]*discovery.Service, 1000)
	var received sync.WaitGroup
	for n := range views {
		s, err := r.OpenService(withTestTimeout(t), "orders")
		require.NoError(t, err)
		views[n] = s
		received.Add(1)
		var once sync.Once
		s.Follow(func(list []discovery.Instance) {
			if len(list) == 1 {
				once.Do(received.Done)
			}
		})
	}
	before := p.Watcher().Stats().ServerWatches
	assert.Equal(t, 1, before)
	register(t, r, newInstance("orders", "a"))
	received.Wait()
	parttest.Eventually(t, func() bool { return p.Watcher().Stats().ServerWatches == 2 }, "the other one is that of the registration's key")
	assert.Equal(t, 1000, views[0].Stats().Users)
	for _, s := range views {
		require.NoError(t, s.Close())
	}
	assert.Equal(t, 1, p.Watcher().Stats().ServerWatches)
	assert.Equal(t, []string{"a"}, instanceIDs(views[0].Instances()), "the last instances stay readable")
	require.ErrorIs(t, views[0].Err(), discovery.ErrClosed)
	again := view(t, r, "orders")
	assert.Equal(t, []string{"a"}, instanceIDs(again.Instances()))
	require.NoError(t, again.Err())
}

func TestFollow_LatestAndNothingAfterStop(t *testing.T) {
	t.Parallel()
	var logged bytes.Buffer
	r, p := newProcess(t, etcdtest.Prefix(t), discovery.WithLogger(slog.New(slog.NewTextHandler(&logged, nil))))
	s := view(t, r, "orders")
	var received, slow parttest.Recorder[[]string]
	stop := s.Follow(func(list []discovery.Instance) { received.Add(instanceIDs(list)) })
	entered, leave := make(chan struct{}), make(chan struct{})
	s.Follow(func(list []discovery.Instance) {
		slow.Add(instanceIDs(list))
		if len(slow.All()) == 1 {
			close(entered)
			<-leave
		}
	})
	s.Follow(func([]discovery.Instance) { panic("at the disco") })
	var stopSelf func()
	selfStopped := make(chan struct{})
	ready := make(chan struct{})
	stopSelf = s.Follow(func([]discovery.Instance) {
		<-ready
		stopSelf()
		close(selfStopped) // a second call would panic, and be logged
	})
	close(ready)
	<-selfStopped
	<-entered
	for n := range 10 {
		put(t, p, fmt.Sprintf("services/orders/instances/%d", n), `{"host":"h","port":1}`)
	}
	parttest.Eventually(t, func() bool { all := received.All(); return len(all) > 0 && len(all[len(all)-1]) == 10 })
	assert.Empty(t, received.All()[0], "first what is there")
	stop()
	n := len(received.All())
	close(leave)
	parttest.Eventually(t, func() bool { all := slow.All(); return len(all[len(all)-1]) == 10 })
	assert.Less(t, len(slow.All()), 4, "who is slow is told of the latest")
	put(t, p, "services/orders/instances/x", `{"host":"h","port":1}`)
	parttest.Eventually(t, func() bool { all := slow.All(); return len(all[len(all)-1]) == 11 })
	assert.Len(t, received.All(), n)
	changes := len(slow.All())
	put(t, p, "services/orders/instances/x", `{"host":"h","port":1,"weight":0}`)
	put(t, p, "services/orders/instances/y", `{"host":"h","port":1}`)
	parttest.Eventually(t, func() bool { all := slow.All(); return len(all[len(all)-1]) == 12 })
	assert.Len(t, slow.All(), changes+1, "what changes nothing is no change")
	require.NoError(t, s.Close())
	assert.Contains(t, logged.String(), "at the disco")
	s.Follow(func([]discovery.Instance) { t.Error("after Close") })()
}

func TestInstances_Filters(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t))
	put(t, p, "services/s/instances/a", `{"host":"h","port":1,"version":"v1","zone":"x","tags":["t","u"]}`)
	put(t, p, "services/s/instances/b", `{"host":"h","port":2,"version":"v2","zone":"x","metadata":{"k":"v"}}`)
	put(t, p, "services/s/instances/c", `{"host":"h","port":3,"version":"v2","zone":"y","tags":["u"],"status":"draining"}`)
	s := view(t, r, "s")
	for name, tt := range map[string]struct {
		filters []discovery.Filter
		want    []string
	}{
		"none":        {nil, []string{"a", "b", "c"}},
		"the zero":    {[]discovery.Filter{{}}, []string{"a", "b", "c"}},
		"version":     {[]discovery.Filter{discovery.OnlyVersion("v2")}, []string{"b", "c"}},
		"zone":        {[]discovery.Filter{discovery.OnlyZone("x")}, []string{"a", "b"}},
		"tag":         {[]discovery.Filter{discovery.OnlyTag("u")}, []string{"a", "c"}},
		"metadata":    {[]discovery.Filter{discovery.OnlyMetadata("k", "v")}, []string{"b"}},
		"no metadata": {[]discovery.Filter{discovery.OnlyMetadata("x", "")}, []string{}},
		"up":          {[]discovery.Filter{discovery.OnlyUp()}, []string{"a", "b"}},
		"both":        {[]discovery.Filter{discovery.OnlyVersion("v2"), discovery.OnlyZone("y")}, []string{"c"}},
		"one's own":   {[]discovery.Filter{discovery.Only(func(i *discovery.Instance) bool { return i.Port > 2 })}, []string{"c"}},
	} {
		assert.Equal(t, tt.want, instanceIDs(s.Instances(tt.filters...)), name)
	}
}

// fill puts n instances of the service "s", named "00" and so on, as others would.
func fill(t *testing.T, p *parttest.Parts, n int) []string {
	t.Helper()
	var names []string
	for i := range n {
		id := fmt.Sprintf("%02d", i)
		put(t, p, "services/s/instances/"+id, `{"host":"h","port":1}`)
		names = append(names, id)
	}
	return names
}

func remove(t *testing.T, p *parttest.Parts, ids ...string) {
	t.Helper()
	for chunk := range slices.Chunk(ids, 100) {
		var ops []clientv3.Op
		for _, id := range chunk {
			ops = append(ops, clientv3.OpDelete(p.Dir+"services/s/instances/"+id))
		}
		_, err := p.Raw.Txn(t.Context()).Then(ops...).Commit()
		require.NoError(t, err)
	}
}

func TestView_HoldsSuddenLoss(t *testing.T) {
	t.Parallel()
	const grace = 3 * time.Second
	r, p := newProcess(t, etcdtest.Prefix(t), discovery.WithGrace(grace))
	all := fill(t, p, 10)
	s := view(t, r, "s")

	remove(t, p, all[:2]...)
	waitForInstances(t, s, all[2:]...)
	began := time.Now()
	remove(t, p, all[2:6]...) // six of ten within the period
	parttest.Eventually(t, func() bool { return s.Stats().Held == 4 })
	assert.Equal(t, all[2:], instanceIDs(s.Instances()))
	put(t, p, "services/s/instances/02", `{"host":"h","port":2}`)
	parttest.Eventually(t, func() bool { return s.Stats().Held == 3 })
	waitForInstances(t, s, append([]string{"02"}, all[6:]...)...)
	assert.GreaterOrEqual(t, time.Since(began), grace)
	assert.Zero(t, s.Stats().Held)

	for _, id := range all[6:] { // whoever has said so goes at once
		put(t, p, "services/s/instances/"+id, `{"host":"h","port":1,"status":"draining"}`)
	}
	remove(t, p, all[6:]...)
	waitForInstances(t, s, "02")
	remove(t, p, "02")
	waitForInstances(t, s)
}

func TestView_WithoutGraceHoldsNothing(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t), discovery.WithGrace(0))
	all := fill(t, p, 10)
	s := view(t, r, "s")
	remove(t, p, all...)
	waitForInstances(t, s)
}

func TestView_ClosedInstancesAreNotHeld(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	r, _ := newProcess(t, dir)
	other, _ := newProcess(t, dir)
	s := view(t, other, "s")
	for n := range 5 {
		register(t, r, newInstance("s", strconv.Itoa(n)))
	}
	waitForInstances(t, s, "0", "1", "2", "3", "4")
	require.NoError(t, r.Close())
	waitForInstances(t, s)
}

func TestOpenService_TimeoutHasCause(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "u", Password: "p", Grants: []etcdtest.Grant{etcdtest.ReadWrite("mine/")}})
	cli := srv.Client(t, parttest.Harden, etcdtest.As("u", "p"))
	allowed, _ := newRegistry(t, cli, "mine")
	register(t, allowed, newInstance("s", "a"))
	assert.Equal(t, []string{"a"}, instanceIDs(view(t, allowed, "s").Instances()))
	refused, _ := newRegistry(t, cli, "theirs")
	_, err := refused.OpenService(withTestTimeout(t), "s")
	require.ErrorIs(t, err, discovery.ErrPermission)
	_, err = refused.Register(withTestTimeout(t), newInstance("s", "a"))
	require.ErrorIs(t, err, discovery.ErrPermission)
	_, err = refused.Services(withTestTimeout(t))
	require.ErrorIs(t, err, discovery.ErrPermission)
}

func TestView_ReopensWatch(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "u", Password: "p", Grants: []etcdtest.Grant{etcdtest.ReadWrite("app/")}})
	root := srv.Client(t, parttest.Harden, etcdtest.As("root", etcdtest.RootPassword))
	p := parttest.New(t, root, "app/")
	r, _ := newRegistry(t, etcdtest.NewClient(t, proxy.Endpoints(), parttest.Harden, etcdtest.As("u", "p")), "app", discovery.WithGrace(0))
	all := fill(t, p, 3)
	put(t, p, "services/s/instances/bad", "x")
	s := view(t, r, "s")
	var names parttest.Recorder[[]string]
	r.FollowServices(names.Add)
	parttest.Eventually(t, func() bool { return len(names.All()) == 1 })

	_, err := root.RoleRevokePermission(t.Context(), "u", "app/", clientv3.GetPrefixRangeEnd("app/"))
	require.NoError(t, err)
	proxy.Cut()
	parttest.Eventually(t, func() bool { return s.Stats().Restarts > 0 })
	require.ErrorIs(t, s.Err(), discovery.ErrPermission)
	remove(t, p, all[0], "bad")
	put(t, p, "services/s/instances/new", `{"host":"h","port":1}`)
	put(t, p, "services/other/instances/new", `{"host":"h","port":1}`)
	assert.Equal(t, all, instanceIDs(s.Instances()))
	assert.Equal(t, 1, s.Stats().Malformed)
	assert.False(t, s.Stats().Live)

	_, err = root.RoleGrantPermission(t.Context(), "u", "app/", clientv3.GetPrefixRangeEnd("app/"), clientv3.PermissionType(clientv3.PermReadWrite))
	require.NoError(t, err)
	waitForInstances(t, s, "01", "02", "new")
	parttest.Eventually(t, func() bool { return s.Err() == nil && s.Stats().Live && s.Stats().Malformed == 0 })
	parttest.Eventually(t, func() bool { l := names.All(); return len(l) == 2 && slices.Equal(l[1], []string{"other", "s"}) })
}
