//go:build unix

package etcdtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func TestCluster_SurvivesTheLossOfItsLeader(t *testing.T) {
	t.Parallel()
	c := etcdtest.StartCluster(t, 3)
	require.Len(t, c.Endpoints(), 3)
	cli := c.Client(t)
	put(t, cli, "key")

	for name, interrupt := range map[string]func(*etcdtest.Server){"killed": (*etcdtest.Server).Kill, "paused": (*etcdtest.Server).Pause} {
		old := c.Leader(t)
		interrupt(old)
		leader := c.Leader(t)
		assert.NotEqual(t, old.Endpoint(), leader.Endpoint(), name)
		assert.EqualValues(t, 1, count(t, leader.Client(t), "key"), name)
		if old.Running() {
			old.Resume()
		} else {
			old.Launch()
		}
		c.WaitReady()
		assert.EqualValues(t, 1, count(t, old.Client(t), "key"), name)
	}
}

func TestCluster_RecoversWithTheQuorum(t *testing.T) {
	t.Parallel()
	c := etcdtest.StartCluster(t, 3)
	put(t, c.Client(t), "key")
	for _, s := range c.Members {
		s.Kill()
	}

	c.Members[0].Launch()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := c.Members[0].Client(t).Get(ctx, "key")
	require.ErrorIs(t, err, context.DeadlineExceeded)

	c.Members[1].Launch()
	c.WaitReady()
	assert.EqualValues(t, 1, count(t, c.Members[1].Client(t), "key"))
}

func TestCluster_WipeStartsAnEmptyCluster(t *testing.T) {
	t.Parallel()
	c := etcdtest.StartCluster(t, 3)
	put(t, c.Client(t), "key")
	c.Wipe()
	for _, s := range c.Members {
		assert.Zero(t, count(t, s.Client(t), "key"))
	}
}
