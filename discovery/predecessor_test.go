package discovery_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

// A process whose Close did not reach etcd is not a stranger to what it has left there.
func TestRegister_ResumesRegistrationThatFailedToClose(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	truth := srv.Client(t)
	r, _ := newRegistry(t, etcdtest.NewClient(t, proxy.Endpoints(), parttest.Harden), "app", discovery.WithTTL(time.Minute))
	reg := register(t, r, newInstance("orders", "a"))
	proxy.Refuse()
	proxy.Cut()
	require.Error(t, reg.Close())
	require.Len(t, keyLeases(t, truth, "app/"), 1, "it is there still")
	proxy.Heal()

	i := newInstance("orders", "a")
	i.Port = 4711
	again := register(t, r, i) // a stranger would wait for a minute
	got, err := truth.Get(t.Context(), "app/services/orders/instances/a")
	require.NoError(t, err)
	assert.Contains(t, string(got.Kvs[0].Value), "4711")
	require.NoError(t, again.Close())
	assert.Empty(t, keyLeases(t, truth, "app/"))
}

func TestRegistration_FailedCloseIsFinishedWhenEtcdReturns(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	truth := srv.Client(t)
	r, _ := newRegistry(t, etcdtest.NewClient(t, proxy.Endpoints(), parttest.Harden), "app", discovery.WithTTL(10*time.Minute))
	reg := register(t, r, newInstance("orders", "a"))
	proxy.Refuse()
	proxy.Cut()
	require.Error(t, reg.Close())
	proxy.Heal()
	parttest.Eventually(t, func() bool { return len(keyLeases(t, truth, "app/")) == 0 }, "long before its lease would end")
}

// A new leader, and a server that was restarted, gives each lease its whole TTL once more. That is
// no sign of life.
func TestRegister_RestartOfEtcdIsNoSignOfLife(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	leftover(t, srv.Client(t), "app/services/orders/instances/a", 6)
	r, _ := newRegistry(t, srv.Client(t, parttest.Harden), "app", discovery.WithTTL(3*time.Second))
	done := make(chan error, 1)
	go func() {
		ctx, stop := context.WithTimeout(t.Context(), parttest.Timeout)
		defer stop()
		_, err := r.Register(ctx, newInstance("orders", "a"))
		done <- err
	}()
	timer := time.NewTimer(2 * time.Second) // so that it was looked at
	<-timer.C
	srv.Restart()
	require.NoError(t, <-done)
}
