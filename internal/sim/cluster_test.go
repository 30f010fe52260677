package sim_test

// Tests of what the model says about leaders, leases, tokens and restored data, where the
// differential check with one real server cannot look.

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/sim"
)

// withRaw runs f with a client of client/v3.
func withRaw(t *testing.T, f func(t *testing.T, s *sim.Sim, cli *clientv3.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := sim.New(1, sim.Options{})
		defer s.Close()
		cli, err := s.Raw("a")
		require.NoError(t, err)
		defer func() { assert.NoError(t, cli.Close()) }()
		f(t, s, cli)
	})
}

func TestSim_LeaseExpiresOnTheLeadersClock(t *testing.T) {
	withRaw(t, func(t *testing.T, s *sim.Sim, cli *clientv3.Client) {
		l, err := cli.Grant(t.Context(), 5)
		require.NoError(t, err)
		_, err = cli.Put(t.Context(), "k", "v", clientv3.WithLease(l.ID))
		require.NoError(t, err)
		time.Sleep(4 * time.Second)
		assert.Contains(t, s.Keys(), "k")
		time.Sleep(2 * time.Second)
		assert.NotContains(t, s.Keys(), "k")
		_, err = cli.KeepAliveOnce(t.Context(), l.ID)
		assert.ErrorIs(t, err, rpctypes.ErrLeaseNotFound)
	})
}

func TestSim_NewLeaderExtendsLeases(t *testing.T) {
	withRaw(t, func(t *testing.T, s *sim.Sim, cli *clientv3.Client) {
		l, err := cli.Grant(t.Context(), 5)
		require.NoError(t, err)
		time.Sleep(4 * time.Second)
		s.MoveLeader()
		time.Sleep(5 * time.Second)
		assert.Len(t, s.Leases(), 1, "5 s and an election timeout after the election")
		ttl, err := cli.TimeToLive(t.Context(), l.ID)
		require.NoError(t, err)
		assert.LessOrEqual(t, ttl.TTL, int64(1))
		time.Sleep(2 * time.Second)
		assert.Empty(t, s.Leases())
	})
}

func TestSim_IsolatedLeaderAnswersNothing(t *testing.T) {
	withRaw(t, func(t *testing.T, s *sim.Sim, cli *clientv3.Client) {
		old := s.Leader()
		cli.SetEndpoints("http://" + old.Name() + ":2379")
		_, err := cli.Put(t.Context(), "k", "1")
		require.NoError(t, err)
		s.Isolate(old.Name())
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err = cli.Get(ctx, "k")
		require.Error(t, err, "a linearizable read needs a majority")
		got, err := cli.Get(t.Context(), "k", clientv3.WithSerializable())
		require.NoError(t, err)
		assert.Len(t, got.Kvs, 1)
		_, err = cli.Get(clientv3.WithRequireLeader(t.Context()), "k", clientv3.WithSerializable())
		require.ErrorIs(t, err, rpctypes.ErrNoLeader)
		assert.NotEqual(t, old, s.Leader())
		s.Rejoin(old.Name())
		_, err = cli.Put(t.Context(), "k", "2")
		require.NoError(t, err)
	})
}

func TestSim_LaggingFollowerReadsThePast(t *testing.T) {
	withRaw(t, func(t *testing.T, s *sim.Sim, cli *clientv3.Client) {
		var follower *sim.Member
		for _, m := range s.Members() {
			if m != s.Leader() {
				follower = m
			}
		}
		s.SetLag(follower.Name(), time.Second)
		_, err := cli.Put(t.Context(), "k", "v")
		require.NoError(t, err)
		cli.SetEndpoints("http://" + follower.Name() + ":2379")
		stale, err := cli.Get(t.Context(), "k", clientv3.WithSerializable())
		require.NoError(t, err)
		assert.Empty(t, stale.Kvs)
		began := time.Now()
		fresh, err := cli.Get(t.Context(), "k")
		require.NoError(t, err)
		assert.Len(t, fresh.Kvs, 1)
		assert.Greater(t, time.Since(began), 500*time.Millisecond, "it waits until the follower has caught up")
	})
}

func TestSim_LostAnswerIsCarriedOut(t *testing.T) {
	withRaw(t, func(t *testing.T, s *sim.Sim, cli *clientv3.Client) {
		s.SetRequestFaults(sim.RequestFaults{LoseAnswer: 1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := cli.Put(ctx, "carried out", "")
		require.Error(t, err)
		s.SetRequestFaults(sim.RequestFaults{LoseRequest: 1})
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = cli.Put(ctx, "lost", "")
		require.Error(t, err)
		assert.Contains(t, s.Keys(), "carried out")
		assert.NotContains(t, s.Keys(), "lost")
	})
}

func TestSim_RestoreGoesBack(t *testing.T) {
	withRaw(t, func(t *testing.T, s *sim.Sim, cli *clientv3.Client) {
		first, err := cli.Put(t.Context(), "k", "1")
		require.NoError(t, err)
		before := s.Snapshot()
		_, err = cli.Put(t.Context(), "k", "2")
		require.NoError(t, err)
		s.Restore(before, false)
		got, err := cli.Get(t.Context(), "k")
		require.NoError(t, err)
		assert.Equal(t, "1", string(got.Kvs[0].Value))
		assert.Equal(t, first.Header.Revision, got.Header.Revision)
		assert.NotEqual(t, first.Header.ClusterId, got.Header.ClusterId)
		s.Restore(nil, true)
		empty, err := cli.Get(t.Context(), "k")
		require.NoError(t, err)
		assert.Empty(t, empty.Kvs)
		assert.Equal(t, got.Header.ClusterId, empty.Header.ClusterId)
	})
}

func TestSim_TokensExpireAndEndWithAMember(t *testing.T) {
	users := map[string]string{"ann": "secret"}
	forSeeds(t, sim.Options{Users: users, TokenTTL: time.Minute}, func(t *testing.T, s *sim.Sim) {
		cfg := s.Config()
		cfg.Username, cfg.Password, cfg.AllowInsecureCredentials = "ann", etcdkit.NewSecret("secret"), true
		c, err := s.Open(t.Context(), "a", cfg)
		require.NoError(t, err)
		defer func() { assert.NoError(t, c.Close()) }()
		logins := func() int { return s.Count()["request Authenticate"] }
		_, err = c.KV().Put(t.Context(), "k", nil)
		require.NoError(t, err)
		before := logins()
		time.Sleep(2 * time.Minute)
		_, err = c.KV().Put(t.Context(), "k", nil)
		require.NoError(t, err, "the client logs in again")
		assert.Greater(t, logins(), before)
		for _, m := range s.Members() {
			s.Crash(m.Name())
			s.Restart(m.Name())
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for err = errors.New("not yet"); err != nil && ctx.Err() == nil; {
			_, err = c.KV().Put(ctx, "k", nil)
		}
		require.NoError(t, err, "members forget tokens when they restart")

		cfg.Password = etcdkit.NewSecret("wrong")
		_, err = s.Open(t.Context(), "b", cfg)
		assert.ErrorIs(t, err, etcdkit.ErrUnauthenticated)
	})
}
