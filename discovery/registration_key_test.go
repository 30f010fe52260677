package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

func TestRegistration_UpdateDuringOpenIsNotLost(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t))
	key := p.Dir + "services/orders/instances/a"
	crashed := leftover(t, p.Raw, key, 60)
	reg, err := r.Register(t.Context(), newInstance("orders", "a"), discovery.WithoutWaiting())
	require.NoError(t, err)
	require.NoError(t, discovery.Change(reg, func(i *discovery.Instance) {
		_, err := p.Raw.Revoke(t.Context(), crashed)
		require.NoError(t, err)
		parttest.Eventually(t, func() bool { return reg.State() == discovery.Registered })
		i.Port = 7
	}))
	assert.Equal(t, 7, view(t, r, "orders").Instances()[0].Port)
}

// fakeSlowLease is a lease service whose first TimeToLive request takes some time to arrive.
type fakeSlowLease struct {
	pb.LeaseClient

	wait  time.Duration
	looks atomic.Int64
}

func (s *fakeSlowLease) LeaseTimeToLive(ctx context.Context, in *pb.LeaseTimeToLiveRequest, o ...grpc.CallOption) (*pb.LeaseTimeToLiveResponse, error) {
	if s.looks.Add(1) == 1 {
		<-time.NewTimer(s.wait).C
	}
	return s.LeaseClient.LeaseTimeToLive(ctx, in, o...)
}

func TestRegister_SlowAnswerIsNoSignOfLife(t *testing.T) {
	t.Parallel()
	cli, dir := etcdtest.Client(t, parttest.Harden), etcdtest.Prefix(t)
	stub := &fakeSlowLease{LeaseClient: pb.NewLeaseClient(cli.ActiveConnection()), wait: 1700 * time.Millisecond}
	w := etcdtest.Must(watch.New(cli, watch.WithNamespace(dir)))
	t.Cleanup(func() { assert.NoError(t, w.Close()) })
	leases := etcdtest.Must(lease.New(cli, lease.WithNamespace(dir), lease.WithWatcher(w), lease.WithStub(stub)))
	t.Cleanup(func() { assert.NoError(t, leases.Close()) })
	r := etcdtest.Must(discovery.New(parttest.New(t, cli, dir).WithWatcher(w).WithLeases(leases)))
	t.Cleanup(func() { assert.NoError(t, r.Close()) })

	crashed := leftover(t, cli, dir+"services/orders/instances/a", 60)
	registered := make(chan error)
	go func() {
		_, err := r.Register(withTestTimeout(t), newInstance("orders", "a"))
		registered <- err
	}()
	parttest.Eventually(t, func() bool { return stub.looks.Load() == 4 })
	_, err := cli.Revoke(t.Context(), crashed)
	require.NoError(t, err)
	require.NoError(t, <-registered, "nobody has renewed the lease")
}

func TestRegister_GivesUpOnPredecessorWhenEtcdIsDown(t *testing.T) {
	t.Parallel()
	counter, srv := etcdtest.Counter(t), etcdtest.Start(t)
	r, _ := newRegistry(t, srv.Client(t, parttest.Harden, counter.Option), "app/")
	leftover(t, srv.Client(t), "app/services/orders/instances/a", 600)
	failed := make(chan error)
	go func() {
		_, err := r.Register(t.Context(), newInstance("orders", "a"))
		failed <- err
	}()
	parttest.Eventually(t, func() bool { return counter.Count("Lease/LeaseTimeToLive") > 1 })
	srv.Kill()
	select {
	case err := <-failed:
		require.ErrorIs(t, err, discovery.ErrUnavailable)
	case <-withTestTimeout(t).Done():
		t.Error("it waits for ever")
	}
}

func TestRegister_RegistriesOfOneClientShareIDs(t *testing.T) {
	t.Parallel()
	counter := etcdtest.Counter(t)
	p := parttest.New(t, counter.Client(t, parttest.Harden), etcdtest.Prefix(t))
	one, other := etcdtest.Must(discovery.New(p)), etcdtest.Must(discovery.New(p))
	t.Cleanup(func() { assert.NoError(t, one.Close()); assert.NoError(t, other.Close()) })
	first := register(t, one, newInstance("orders", "a"))
	_, err := one.Register(withTestTimeout(t), newInstance("orders", "a"), discovery.WithTakeover())
	require.ErrorIs(t, err, discovery.ErrTaken, "in one registry it is the same")
	counter.Reset()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	_, err = other.Register(ctx, newInstance("orders", "a"), discovery.WithTakeover())
	require.ErrorIs(t, err, discovery.ErrTaken)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, counter.Total(), 100, counter.Counts())
	parttest.Eventually(t, func() bool { return first.State() == discovery.Registered && len(keyLeases(t, p.Raw, p.Dir)) == 1 })
}

func TestRegistration_UpdateDuringRestoreIsNotLost(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	r, _ := newRegistry(t, etcdtest.NewClient(t, proxy.Endpoints(), parttest.Harden), "app", discovery.WithTTL(2*time.Second))
	watcher, _ := newRegistry(t, srv.Client(t, parttest.Harden), "app")
	reg := register(t, r, newInstance("orders", "a"), discovery.WithDrainDelay(0))
	s := view(t, watcher, "orders")
	proxy.Blackhole(true, true)
	waitForInstances(t, s)
	for range 5 {
		ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
		require.Error(t, reg.Drain(ctx))
		stop()
		assert.Equal(t, discovery.Suspended, reg.State())
	}
	proxy.Heal()
	parttest.Eventually(t, func() bool { l := s.Instances(); return len(l) == 1 && l[0].Status == discovery.Draining }, "it comes back as it is to be")
	parttest.Eventually(t, func() bool { return reg.State() == discovery.Leaving })
}

func TestRegister_CanceledContextLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	r, p := newProcess(t, dir)
	var succeeded int
	for n := range shortOrLong(60, 600) {
		why := fmt.Errorf("step %d", n)
		ctx, stop := context.WithTimeoutCause(t.Context(), time.Duration(n)*50*time.Microsecond, why)
		reg, err := r.Register(ctx, newInstance("orders", "a"))
		if err == nil {
			succeeded++
			require.NoError(t, reg.Close())
		} else {
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		}
		s, err := r.OpenService(ctx, "orders")
		if err == nil {
			require.NoError(t, s.Close())
		} else {
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		}
		stop()
	}
	t.Logf("%d succeeded", succeeded)
	parttest.Eventually(t, func() bool { return len(keyLeases(t, p.Raw, dir)) == 0 })
	assert.Zero(t, p.Watcher().Stats().Active)
	require.NoError(t, register(t, r, newInstance("orders", "a")).Close(), "the ID is free")
}

func TestRegister_ErrorHasContextCause(t *testing.T) {
	t.Parallel()
	r, _ := newProcess(t, etcdtest.Prefix(t))
	reg := register(t, r, newInstance("orders", "a"))
	why := errors.New("enough")
	ctx, stop := context.WithCancelCause(t.Context())
	stop(why)
	calls := map[string]func() error{
		"register":     func() error { _, err := r.Register(ctx, newInstance("orders", "b")); return err },
		"open service": func() error { _, err := r.OpenService(ctx, "orders"); return err },
		"services":     func() error { _, err := r.Services(ctx); return err },
		"update":       func() error { return reg.Update(ctx, newInstance("orders", "a")) },
		"drain":        func() error { return reg.Drain(ctx) },
	}
	for name, call := range calls {
		err := call()
		require.ErrorIs(t, err, context.Canceled, name)
		require.ErrorIs(t, err, why, name)
	}
	assert.Equal(t, discovery.Registered, reg.State(), "nothing was changed")
}

// A lease whose keys this process may not read all of is one whose end it can wait for all the
// same.
func TestRegister_WaitsForLeaseWithForeignKeys(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "u", Password: "p", Grants: []etcdtest.Grant{etcdtest.ReadWrite("app/")}})
	root := srv.Client(t, etcdtest.As("root", etcdtest.RootPassword))
	id := leftover(t, root, "app/services/orders/instances/a", 3)
	_, err := root.Put(t.Context(), "secret", "", clientv3.WithLease(id))
	require.NoError(t, err)
	r, _ := newRegistry(t, srv.Client(t, parttest.Harden, etcdtest.As("u", "p")), "app")
	register(t, r, newInstance("orders", "a"))
}

// leftover is the key of a process that has crashed just now, on a lease of its own.
func leftover(t *testing.T, cli *clientv3.Client, key string, ttl int64) clientv3.LeaseID {
	t.Helper()
	return leftoverAt(t, cli, key, `{"serviceName":"orders","instanceId":"a","host":"10.9.9.9","port":1}`, ttl)
}

// leftoverAt is leftover with a value of the caller's.
func leftoverAt(t *testing.T, cli *clientv3.Client, key, value string, ttl int64) clientv3.LeaseID {
	t.Helper()
	l, err := cli.Grant(t.Context(), ttl)
	require.NoError(t, err)
	_, err = cli.Put(t.Context(), key, value, clientv3.WithLease(l.ID))
	require.NoError(t, err)
	return l.ID
}
