//go:build unix

package etcdtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// answers reports whether a member answers a linearizable read within a second.
func answers(t *testing.T, cli *clientv3.Client) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := cli.Get(ctx, "key")
	return err == nil
}

func TestNetwork_IsolatedMemberHasNoQuorum(t *testing.T) {
	t.Parallel()
	c := etcdtest.StartCluster(t, 3, etcdtest.WithNetwork())
	alone := c.Leader(t)
	cli := alone.Client(t)
	require.True(t, answers(t, cli))

	c.Isolate(alone)
	assert.False(t, answers(t, cli))
	assert.NotEqual(t, alone.Endpoint(), c.Leader(t).Endpoint())

	c.HealNetwork()
	c.WaitReady()
	assert.True(t, answers(t, cli))
}

// A follower that hears its leader and cannot answer it has no way to read, and does not disturb
// the others.
func TestNetwork_DropsOneDirection(t *testing.T) {
	t.Parallel()
	c := etcdtest.StartCluster(t, 3, etcdtest.WithNetwork())
	leader := c.Leader(t)
	mute := c.Members[0]
	if mute == leader {
		mute = c.Members[1]
	}
	for _, other := range c.Members {
		if other != mute {
			c.Drop(mute, other)
		}
	}
	put(t, leader.Client(t), "key")
	stale := mute.Client(t)
	require.Eventually(t, func() bool {
		r, err := stale.Get(t.Context(), "key", clientv3.WithSerializable())
		return err == nil && len(r.Kvs) == 1
	}, 10*time.Second, 20*time.Millisecond, "it hears of the write")
	assert.False(t, answers(t, stale))
	c.HealNetwork()
	c.WaitReady()
}

func TestCluster_ReplaceRestartsAMemberWithoutItsData(t *testing.T) {
	t.Parallel()
	c := etcdtest.StartCluster(t, 3, etcdtest.WithNetwork())
	put(t, c.Client(t), "key")
	member := c.Leader(t)
	c.Replace(member)
	c.WaitReady()
	assert.EqualValues(t, 1, count(t, member.Client(t), "key"))
}
