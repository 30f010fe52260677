package lease_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/lease"
)

// deletionLog notes when somebody with a link of his own sees the keys of leases go.
type deletionLog struct {
	mu      sync.Mutex
	at      map[clientv3.LeaseID]time.Time
	changed chan struct{}
}

// watchDeletions watches the keys below "trial/", which are named after their leases.
func watchDeletions(t *testing.T, cli *clientv3.Client) *deletionLog {
	t.Helper()
	d := &deletionLog{at: map[clientv3.LeaseID]time.Time{}, changed: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { stop(); wg.Wait() })
	w := cli.Watch(ctx, "trial/", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithFilterPut())
	created := <-w
	require.NoError(t, created.Err())
	wg.Go(func() {
		for r := range w {
			now := time.Now()
			d.mu.Lock()
			for _, e := range r.Events {
				id, err := strconv.ParseInt(string(e.Kv.Key[len("trial/"):]), 16, 64)
				if assert.NoError(t, err) {
					d.at[clientv3.LeaseID(id)] = now
				}
			}
			d.mu.Unlock()
			select {
			case d.changed <- struct{}{}:
			default:
			}
		}
	})
	return d
}

// waitFor returns when n keys have gone.
func (d *deletionLog) waitFor(t *testing.T, n int) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for {
		d.mu.Lock()
		have := len(d.at)
		d.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-d.changed:
		case <-deadline.C:
			require.Fail(t, "keys do not go", "%d of %d", have, n)
		}
	}
}

func (d *deletionLog) of(id clientv3.LeaseID) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at[id]
}

// heldSession is one holder: when it learns of its loss, and when others see it.
type heldSession struct {
	id     clientv3.LeaseID
	mu     sync.Mutex
	lostAt time.Time
}

func (tr *heldSession) markLost() {
	tr.mu.Lock()
	tr.lostAt = time.Now()
	tr.mu.Unlock()
}

func (tr *heldSession) lossTime() time.Time {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.lostAt
}

// openHeldSessions opens n sessions, over a third of the TTL, with a key each.
func openHeldSessions(t *testing.T, m *lease.Manager, n int, ttl time.Duration, put *clientv3.Client) []*heldSession {
	t.Helper()
	all := make([]*heldSession, n)
	spread(n, ttl, func(i int) {
		s, err := m.OpenSession(t.Context(), lease.WithTTL(ttl))
		if !assert.NoError(t, err) {
			return
		}
		tr := &heldSession{id: s.ID()}
		context.AfterFunc(s.Context(), tr.markLost)
		_, err = put.Put(t.Context(), "trial/"+strconv.FormatInt(int64(tr.id), 16), "", clientv3.WithLease(tr.id))
		assert.NoError(t, err)
		all[i] = tr
	})
	require.False(t, t.Failed())
	return all
}

// openConcurrencySessions is hold with the session of client/v3's concurrency package.
func openConcurrencySessions(t *testing.T, cli *clientv3.Client, n int, ttl time.Duration, put *clientv3.Client) []*heldSession {
	t.Helper()
	all := make([]*heldSession, n)
	spread(n, ttl, func(i int) {
		s, err := concurrency.NewSession(cli, concurrency.WithTTL(int(ttl/time.Second)))
		if !assert.NoError(t, err) {
			return
		}
		tr := &heldSession{id: s.Lease()}
		go func() {
			<-s.Done()
			tr.markLost()
		}()
		_, err = put.Put(t.Context(), "trial/"+strconv.FormatInt(int64(tr.id), 16), "", clientv3.WithLease(tr.id))
		assert.NoError(t, err)
		all[i] = tr
	})
	require.False(t, t.Failed())
	return all
}

func spread(n int, ttl time.Duration, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			timer := time.NewTimer(ttl / 3 * time.Duration(i) / time.Duration(n))
			<-timer.C
			f(i)
		})
	}
	wg.Wait()
}

// compare counts the trials in which others saw the lease go before its holder knew, and the
// narrowest that it was.
func (d *deletionLog) compare(all []*heldSession) (overlaps int, slack time.Duration) {
	slack = time.Hour
	for _, tr := range all {
		learned := tr.lossTime()
		if learned.IsZero() {
			learned = time.Now()
		}
		by := d.of(tr.id).Sub(learned)
		if by <= 0 {
			overlaps++
		}
		slack = min(slack, by)
	}
	return overlaps, slack
}

// TestSession_ContextEndsBeforeOthersSeeLeaseExpire cuts the link of holders and compares, by one
// clock, when they learn of their loss and when somebody on another link sees their leases go.
func TestSession_ContextEndsBeforeOthersSeeLeaseExpire(t *testing.T) {
	t.Parallel()
	n, ttls := 50, []time.Duration{3 * time.Second}
	if long() {
		n, ttls = 60, []time.Duration{2 * time.Second, 3 * time.Second, 5 * time.Second, 10 * time.Second}
	}
	for _, ttl := range ttls {
		t.Run(ttl.String(), func(t *testing.T) {
			t.Parallel()
			srv := etcdtest.Start(t)
			direct, link := srv.Client(t), srv.Proxy(t)
			m := newManager(t, etcdtest.NewClient(t, link.Endpoints(), parttest.Harden))
			theirs := etcdtest.NewClient(t, link.Endpoints())
			seen := watchDeletions(t, direct)
			ours := openHeldSessions(t, m, n, ttl, direct)
			official := openConcurrencySessions(t, theirs, n, ttl, direct)
			link.Blackhole(true, true)
			seen.waitFor(t, 2*n)

			overlaps, slack := seen.compare(ours)
			assert.Zero(t, overlaps)
			if long() { // on a machine with nothing else to do
				assert.Greater(t, slack, 100*time.Millisecond)
			}
			t.Logf("TTL %v, lease.Session: %d overlaps of %d, narrowest %v", ttl, overlaps, n, slack)
			overlaps, slack = seen.compare(official)
			t.Logf("TTL %v, concurrency.Session: %d overlaps of %d, worst %v", ttl, overlaps, n, slack)
			_ = m.Close()
		})
	}
}

// TestSession_ContextEndsBeforeLeaseOnPausedServer stops etcd itself and lets it go on when the
// holders have lost their trust in it.
func TestSession_ContextEndsBeforeLeaseOnPausedServer(t *testing.T) {
	t.Parallel()
	const n, ttl = 50, 3 * time.Second
	srv := etcdtest.Start(t)
	direct := srv.Client(t)
	m := newManager(t, srv.Client(t))
	seen := watchDeletions(t, srv.Client(t))
	all := openHeldSessions(t, m, n, ttl, direct)
	srv.Pause()
	require.Eventually(t, func() bool { return m.Stats().Lost == n }, 20*time.Second, time.Millisecond)
	assert.Zero(t, m.Stats().Sessions)
	srv.Resume()
	seen.waitFor(t, n)
	overlaps, slack := seen.compare(all)
	assert.Zero(t, overlaps)
	t.Logf("%d overlaps of %d, narrowest %v", overlaps, n, slack)
	s, err := m.OpenSession(t.Context())
	require.NoError(t, err, "and etcd is there again")
	require.NoError(t, s.Err())
}

// TestSession_SurvivesFrozenMember stops one member of three, which a third of the streams lead to.
func TestSession_SurvivesFrozenMember(t *testing.T) {
	t.Parallel()
	// The chance that no stream is on the paused member is 1 in 190,000.
	n, ttls := 30, []time.Duration{5 * time.Second}
	if long() {
		n, ttls = 60, []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second}
	}
	cluster := etcdtest.StartCluster(t, 3)
	for _, ttl := range ttls {
		trial := func() (settled bool) {
			var all []*lease.Session
			var managers []*lease.Manager
			for range n {
				m := newManager(t, cluster.Client(t, parttest.Harden))
				s, err := m.OpenSession(t.Context(), lease.WithTTL(ttl))
				require.NoError(t, err)
				all = append(all, s)
				managers = append(managers, m)
			}
			for _, m := range managers { // each has its stream, somewhere
				require.Eventually(t, func() bool { return m.Stats().Renewals > 0 }, time.Minute, 10*time.Millisecond)
			}
			leader := cluster.Leader(t)
			frozen := cluster.Members[0]
			if frozen == leader {
				frozen = cluster.Members[1]
			}
			frozen.Pause()
			timer := time.NewTimer(ttl + time.Second)
			<-timer.C
			settled = cluster.Leader(t) == leader // else it is about elections
			frozen.Resume()
			var lost, failed int
			for _, m := range managers {
				failed += int(m.Stats().Failures)
			}
			for _, s := range all {
				if s.Err() != nil {
					t.Log(s.Err())
					lost++
				}
				_ = s.Close()
			}
			if settled {
				assert.Zero(t, lost, "of %d at TTL %v", n, ttl)
				assert.Positive(t, failed, "some had their stream at the frozen member")
			}
			return settled
		}
		again := 0
		for ; !trial(); again++ {
			require.Less(t, again, 5, "the cluster keeps electing leaders")
		}
	}
}

// TestSession_SurvivesLossOfLeader kills the leader of three members.
func TestSession_SurvivesLossOfLeader(t *testing.T) {
	t.Parallel()
	kills := 1
	if long() {
		kills = 12
	}
	cluster := etcdtest.StartCluster(t, 3)
	m := newManager(t, cluster.Client(t, parttest.Harden))
	var all []*lease.Session
	for range 50 {
		s, err := m.OpenSession(t.Context(), lease.WithTTL(10*time.Second))
		require.NoError(t, err)
		all = append(all, s)
	}
	for range kills {
		leader := cluster.Leader(t)
		leader.Kill()
		killed := time.Now()
		require.Eventually(t, func() bool {
			for _, s := range all {
				if s.Err() != nil {
					return true
				}
				if s.Deadline().Before(killed.Add(9 * time.Second)) {
					return false // it was not renewed since
				}
			}
			return true
		}, 30*time.Second, 10*time.Millisecond)
		for _, s := range all {
			require.NoError(t, s.Err())
		}
		leader.Launch()
		leader.WaitReady()
	}
}
