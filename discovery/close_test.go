package discovery_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

func TestRegistration_CloseDrainsWhatWasNotTakenOver(t *testing.T) {
	t.Parallel()
	const delay = time.Second
	dir := etcdtest.Prefix(t)
	r, p := newProcess(t, dir)
	thief, _ := newProcess(t, dir)
	one := serve(t, "one", sayService, "test.Other")
	reg, err := r.RegisterGRPC(withTestTimeout(t), one.Server, one.instance(""), discovery.WithDrainDelay(delay))
	require.NoError(t, err)
	register(t, thief, one.instance("test.Other"), discovery.WithTakeover())
	parttest.Eventually(t, func() bool { return reg.State() == discovery.Suspended })

	var received parttest.Recorder[[]discovery.Instance]
	view(t, thief, sayService).Follow(received.Add)
	began := time.Now()
	require.NoError(t, reg.Close())
	assert.GreaterOrEqual(t, time.Since(began), delay, "clients have time to turn elsewhere")
	parttest.Eventually(t, func() bool { all := received.All(); return len(all[len(all)-1]) == 0 })
	all := received.All()
	require.Len(t, all, 3)
	assert.Equal(t, discovery.Draining, all[1][0].Status)
	assert.Len(t, keyLeases(t, p.Raw, dir), 1, "what was taken over stays")
}

func TestRegistration_UpdateRefusesOtherInstance(t *testing.T) {
	t.Parallel()
	r, _ := newProcess(t, etcdtest.Prefix(t))
	one := serve(t, "one", sayService, "test.Other")
	both, err := r.RegisterGRPC(withTestTimeout(t), one.Server, one.instance(""), discovery.WithDrainDelay(0))
	require.NoError(t, err)
	for _, reg := range []*discovery.Registration{both, register(t, r, one.instance("single"))} {
		other := one.instance("")
		other.ID = "two"
		require.ErrorIs(t, reg.Update(withTestTimeout(t), other), discovery.ErrInvalid)
		require.ErrorIs(t, reg.Update(withTestTimeout(t), one.instance("x")), discovery.ErrInvalid)
		assert.Equal(t, "one", reg.Instance().ID)
	}
}

func TestRegisterGRPC_ServerIsStoppedOrReturned(t *testing.T) {
	t.Parallel()
	p := parttest.New(t, etcdtest.Client(t, parttest.Harden), etcdtest.Prefix(t))
	for n := range shortOrLong(100, 1000) {
		r := etcdtest.Must(discovery.New(p))
		s := serve(t, "one")
		var all sync.WaitGroup
		all.Go(func() {
			<-time.NewTimer(time.Duration(n%40) * 100 * time.Microsecond).C
			assert.NoError(t, r.Close())
		})
		_, err := r.RegisterGRPC(withTestTimeout(t), s.Server, s.instance("echo"), discovery.WithDrainDelay(0))
		all.Wait()
		if err == nil {
			<-s.stopped
			continue
		}
		require.ErrorIs(t, err, discovery.ErrClosed)
		select {
		case <-s.stopped:
			t.Error("the server of a registration that failed is left alone")
		default:
		}
		s.Stop()
	}
	parttest.Eventually(t, func() bool { return len(keyLeases(t, p.Raw, p.Dir)) == 0 }, "what was cut off is cleaned up in the background")
}

func TestRegistry_CloseWaitsForResolvers(t *testing.T) {
	t.Parallel()
	r, p := newProcess(t, etcdtest.Prefix(t))
	put(t, p, "services/echo/instances/a", `{"host":"h","port":1}`)
	entered, closed, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
	early := false
	resolve(t, r, "echo", discovery.Only(func(*discovery.Instance) bool {
		close(entered)
		defer close(left)
		select {
		case <-closed:
			early = true
		case <-time.NewTimer(100 * time.Millisecond).C:
		}
		return true
	}))
	<-entered
	require.NoError(t, r.Close())
	close(closed)
	<-left
	assert.False(t, early, "a filter still ran when the registry was closed")
}
