//nolint:paralleltest // each test has a cluster, and the machine, to itself
package integration_test

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

// unlucky is what the one calls itself whose lease is revoked while it waits.
const unlucky = "the unlucky one"

// leaseOf waits until the unlucky one waits in a queue, and knows that, and returns its lease.
func leaseOf(t *testing.T, cli *clientv3.Client, dir string, l *lock.Locker) (lease clientv3.LeaseID) {
	t.Helper()
	require.Eventually(t, func() bool {
		if l.Stats().Waiting == 0 {
			return false
		}
		r, err := cli.Get(t.Context(), dir, clientv3.WithPrefix())
		if err != nil {
			return false
		}
		for _, e := range r.Kvs {
			if string(e.Value) == unlucky {
				lease = clientv3.LeaseID(e.Lease)
			}
		}
		return lease != 0
	}, 30*time.Second, time.Millisecond)
	return lease
}

// chamber is where readers and writers meet.
type chamber struct {
	inside                  atomic.Int64 // readers, less a thousand for a writer
	reads, writes, overlaps atomic.Int64
}

const oneWriter = 1000

func (c *chamber) read() (leave func()) {
	c.reads.Add(1)
	if c.inside.Add(1) < 1 {
		c.overlaps.Add(1)
	}
	return func() { c.inside.Add(-1) }
}

func (c *chamber) write() (leave func()) {
	c.writes.Add(1)
	if c.inside.Add(-oneWriter) != -oneWriter {
		c.overlaps.Add(1)
	}
	return func() { c.inside.Add(oneWriter) }
}

func TestChamber_FindsOverlaps(t *testing.T) {
	t.Parallel()
	c := &chamber{}
	one, two := c.read(), c.read()
	one()
	two()
	c.write()()
	assert.Zero(t, c.overlaps.Load())
	reader := c.read()
	writer := c.write()
	assert.EqualValues(t, 1, c.overlaps.Load(), "a writer beside a reader")
	reader()
	c.read()()
	assert.EqualValues(t, 2, c.overlaps.Load(), "a reader beside a writer")
	c.write()()
	assert.EqualValues(t, 3, c.overlaps.Load(), "a writer beside a writer")
	writer()
	c.write()()
	assert.EqualValues(t, 3, c.overlaps.Load())
}

// unlessInDoubt is an error that is more than that nobody has answered to a release in time, which
// then goes on.
func unlessInDoubt(err error) error {
	if isUnknown(err) {
		return nil
	}
	return err
}

// throng has n readers come and go until they are stopped.
func (c *chamber) throng(t *testing.T, n int, mutexes ...*lock.RWMutex) (stop func()) {
	ctx, end := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range n {
		m := mutexes[i%len(mutexes)]
		wg.Go(func() {
			for ctx.Err() == nil {
				assert.NoError(t, unlessInDoubt(m.RDo(t.Context(), func(context.Context, *lock.Permit) error {
					defer c.read()()
					runtime.Gosched()
					return nil
				})))
			}
		})
	}
	return func() {
		end()
		wg.Wait()
	}
}

// Readers come and go. A writer waits behind one who stays, and loses its lease before that one
// goes. It must not be admitted later, beside the next writer, or beside those who have come in
// meanwhile; and must get in when it asks again.
func TestRWMutex_WriterLosesLeaseWhileWaiting(t *testing.T) {
	cluster := etcdtest.StartCluster(t, 3)
	direct := cluster.Client(t)
	a, _ := newLocker(t, cluster.Endpoints(), 15*time.Second)
	b, _ := newLocker(t, cluster.Endpoints(), 15*time.Second)
	victim := etcdtest.Must(lock.New(open(t, cluster.Endpoints()), lock.WithTTL(15*time.Second), lock.WithOwner(unlucky)))
	defer func() { assert.NoError(t, victim.Close()) }()
	inside := &chamber{}
	stop := inside.throng(t, 8, a.RWMutex("m"), b.RWMutex("m"))
	defer stop()
	trials, began := scale(20, 1000), time.Now()
	for i := range trials {
		ctx, enough := context.WithTimeout(t.Context(), time.Minute)
		write := func(l *lock.Locker) <-chan error {
			done := make(chan error, 1)
			go func() {
				done <- unlessInDoubt(l.RWMutex("m").Do(ctx, func(context.Context, *lock.Held) error {
					defer inside.write()()
					runtime.Gosched()
					return nil
				}))
			}()
			return done
		}
		stays, err := a.RWMutex("m").RLock(ctx)
		require.NoError(t, err)
		leave := inside.read()
		lost := write(victim)
		lease := leaseOf(t, direct, "locks/m/", victim)
		next := write(b)
		_, err = direct.Revoke(ctx, lease)
		require.NoError(t, err)
		leave()
		require.NoError(t, unlessInDoubt(stays.Release(ctx)))
		require.ErrorIs(t, <-lost, lock.ErrLost, "trial %d", i)
		require.NoError(t, <-next, "trial %d", i)
		require.NoError(t, <-write(victim), "trial %d", i)
		enough()
	}
	stop()
	t.Logf("%d leases of a waiting writer revoked in %v, %d reads, %d writes: %d overlaps", trials,
		time.Since(began).Round(time.Millisecond), inside.reads.Load(), inside.writes.Load(), inside.overlaps.Load())
	assert.EqualValues(t, 2*trials, inside.writes.Load())
	assert.Zero(t, inside.overlaps.Load())
	assertEmpty(t, direct, "locks/")
}

// A candidate waits behind the leader, in front of another one. Its lease is revoked, and then the
// leader resigns. In every other trial the member by which it watches stands still meanwhile, so
// that it hears of both at once, and late.
func TestElection_CandidateLosesLeaseWhileWaiting(t *testing.T) {
	cluster := etcdtest.StartCluster(t, 3)
	slow := follower(t, cluster)
	others := slices.DeleteFunc(cluster.Endpoints(), func(e string) bool { return e == slow.Endpoint() })
	direct := newClient(t, others)
	a, _ := newLocker(t, others, 15*time.Second)
	b, _ := newLocker(t, others, 15*time.Second)
	victim, _ := newLocker(t, slow.Endpoints(), 15*time.Second)
	var leaders, double atomic.Int64
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	lead := func(l *lock.Locker, value string) (*lock.Leadership, error) {
		led, err := l.Election("e").Campaign(ctx, value)
		if err == nil && leaders.Add(1) > 1 {
			double.Add(1)
		}
		return led, err
	}
	resign := func(led *lock.Leadership) {
		leaders.Add(-1)
		require.NoError(t, unlessInDoubt(led.Release(t.Context())))
	}
	type outcome struct {
		led *lock.Leadership
		err error
	}
	trials, began := scale(20, 100), time.Now()
	for i := range trials {
		first, err := lead(a, "first")
		require.NoError(t, err)
		lost, next := make(chan error, 1), make(chan outcome, 1)
		go func() {
			_, err := lead(victim, unlucky)
			lost <- err
		}()
		lease := leaseOf(t, direct, "elections/e/", victim)
		go func() {
			led, err := lead(b, "next")
			next <- outcome{led, err}
		}()
		queueLen(t, direct, "elections/e/", 3)
		if i%2 == 1 {
			slow.Pause()
		}
		_, err = direct.Revoke(t.Context(), lease)
		require.NoError(t, err)
		resign(first)
		heir := <-next
		require.NoError(t, heir.err)
		slow.Resume()
		require.ErrorIs(t, <-lost, lock.ErrLost)
		assert.Greater(t, heir.led.Token(), first.Token())
		resign(heir.led)
	}
	t.Logf("%d leases of a waiting candidate revoked in %v: %d double leaders", trials, time.Since(began).Round(time.Millisecond), double.Load())
	assert.Zero(t, double.Load())
	assertEmpty(t, direct, "elections/")
}
