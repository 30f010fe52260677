//nolint:paralleltest // each test has a cluster, and the machine, to itself
package integration_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

// vacancy is what an observer is told when nobody leads.
var vacancy = lock.Leader{}

// sees waits until the last thing that an observer was told is that one leads, and logs how long
// that took.
func (s *spectator) sees(t *testing.T, led lock.Leader, when string) {
	t.Helper()
	began := time.Now()
	require.Eventually(t, func() bool { return s.last() == led }, 30*time.Second, time.Millisecond, "%s: %+v, not %+v", when, led, s.last())
	t.Logf("%s: told of %+v after %v", when, led, time.Since(began).Round(time.Millisecond))
}

// lead wins an election, which is vacant.
func lead(t *testing.T, l *lock.Locker, value string) (*lock.Leadership, lock.Leader) {
	t.Helper()
	led, err := l.Election("e").Campaign(t.Context(), value)
	require.NoError(t, err)
	return led, lock.Leader{Value: value, Token: led.Token()}
}

// Each member is cut off from the others in turn, so the one that serves the watches of a client is
// among them. What this one waits for happens on the other side.
func TestLock_WaitersLeavePartitionedMember(t *testing.T) {
	cluster := newCluster(t)
	locks := open(t, cluster.Endpoints()).Locks()
	crowd := spectate(t, locks.Election("e"))
	crowd.sees(t, vacancy, "at first")
	candidates := map[string]bool{}
	for i, cut := range cluster.Members {
		one, other := cluster.Members[(i+1)%3], cluster.Members[(i+2)%3]
		rest := open(t, []string{one.GRPCURL, other.GRPCURL}).Locks()
		held, err := rest.Mutex("m").Lock(t.Context())
		require.NoError(t, err)
		granted := make(chan error, 1)
		ctx, enough := context.WithTimeout(t.Context(), 30*time.Second)
		go func() {
			granted <- locks.Mutex("m").Do(ctx, func(context.Context, *lock.Held) error { return nil })
		}()
		require.Eventually(t, func() bool { return locks.Stats().Waiting == 1 }, 30*time.Second, time.Millisecond)

		cut.InjectPartition(t, one, other)
		began := time.Now()
		if err = held.Release(t.Context()); !isUnknown(err) { // it goes on where the others had to elect a leader first
			require.NoError(t, err)
		}
		require.NoError(t, <-granted, "the mutex is free")
		enough()
		t.Logf("granted after %v", time.Since(began).Round(time.Millisecond))
		for _, value := range scale([]string{"first"}, []string{"first", "second", "third"}) {
			candidates[value] = true
			led, leader := lead(t, rest, value)
			crowd.sees(t, leader, "while a member is cut off")
			require.NoError(t, led.Release(t.Context()))
			crowd.sees(t, vacancy, "when the leader has resigned")
		}
		cut.RecoverPartition(t, one, other)
		cluster.WaitMembersForLeader(t, cluster.Members)
	}
	crowd.check(t, candidates)
}

// An observer that was cut off while the leader changed, and the history of that was thrown away;
// and then a cluster without a leader, for so long that the leader of the election loses its
// session.
func TestObserve_SurvivesCompactionAndQuorumLoss(t *testing.T) {
	cluster := etcdtest.StartCluster(t, 3)
	shaky := newLink(t, cluster)
	observer, _ := newLocker(t, shaky.endpoints(), shortTTL)
	steady, _ := newLocker(t, cluster.Endpoints(), 15*time.Second)
	brief, _ := newLocker(t, cluster.Endpoints(), shortTTL)
	crowd := spectate(t, observer.Election("e"))
	first, leader := lead(t, steady, "1")
	crowd.sees(t, leader, "at first")

	shaky.each(cutOff)
	require.NoError(t, first.Release(t.Context()))
	second, leader := lead(t, brief, "2")
	cluster.Members[0].Compact(insist(t, cluster.Client(t), "suite/noise", ""))
	assert.NotEqual(t, leader, crowd.last(), "it cannot know yet")
	shaky.each((*etcdtest.Proxy).Heal)
	crowd.sees(t, leader, "after the loss of history")
	assert.Positive(t, observer.Stats().Reopened, "its watch was begun anew")

	pair := cluster.Members[:2]
	for _, m := range pair {
		m.Pause()
	}
	<-second.Context().Done()
	assert.Equal(t, leader, crowd.last(), "nobody knows of anything else")
	spend(t, 3*time.Second) // until the member that is left has no leader, and says so
	for _, m := range pair {
		m.Resume()
	}
	crowd.sees(t, vacancy, "after the loss of the quorum, and of the leader's lease")
	require.ErrorIs(t, second.Release(t.Context()), lock.ErrLost)
	third, leader := lead(t, steady, "3")
	crowd.sees(t, leader, "at last")
	require.NoError(t, third.Release(t.Context()))
	crowd.check(t, map[string]bool{"1": true, "2": true, "3": true})
}
