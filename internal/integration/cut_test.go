//nolint:paralleltest // a cluster, and the machine, to itself
package integration_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/kv"
)

// unaware is for how long, at the most, a member that was cut off does not know it, and tells that
// nothing is new: with the clocks of the test framework a few tenths of a second, and more on a
// machine that is busy.
const unaware = 3 * time.Second

// ledger is a number that is counted up in etcd, and when each count was acknowledged.
type ledger struct {
	mu    sync.Mutex
	acked []time.Time // of the counts from 0
}

func (l *ledger) note() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked = append(l.acked, time.Now())
}

// at is the count that was acknowledged at a time, -1 for none.
func (l *ledger) at(when time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	later, _ := slices.BinarySearchFunc(l.acked, when, func(a, when time.Time) int {
		if a.After(when) {
			return 1
		}
		return -1
	})
	return later - 1
}

// reading is one of those that follow the number. read returns it, with how old it may be; an error
// says that it will not.
type reading struct {
	name    string
	read    func() (n int, atMost time.Duration, err error)
	refuses error // what errors match

	served, refused int
	latest          int
	broken          string // what was served though it was older
}

// look reads once, and holds what was read against what had to be there.
func (r *reading) look(l *ledger) {
	began := time.Now()
	n, atMost, err := r.read()
	if err != nil {
		if !errors.Is(err, r.refuses) {
			r.broken = err.Error()
		}
		r.refused++
		return
	}
	r.served++
	r.latest = n
	if want := l.at(began.Add(-atMost - unaware)); n < want {
		r.broken = fmt.Sprintf("%d was served where %d was acknowledged %v ago", n, want, time.Since(began)+atMost+unaware)
	}
}

// follow reads until told to stop.
func (r *reading) follow(l *ledger, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		default:
			r.look(l)
			time.Sleep(time.Millisecond) // the others want to run as well
		}
	}
}

// Each member is cut off from the others in turn. What follows etcd by it goes on answering the
// client, and must not take what it says for news.
func TestStaleness_HoldsWhileAMemberIsPartitioned(t *testing.T) {
	const bound = 2 * time.Second
	cluster := newCluster(t)
	c := open(t, cluster.Endpoints())
	all := newClient(t, cluster.Endpoints())
	_, err := all.Put(t.Context(), "suite/count", "0")
	require.NoError(t, err)
	l := &ledger{}
	l.note()

	replica, err := cache.OpenReplica(t.Context(), c, "suite", kv.JSON[int](), cache.WithMaxStaleness(bound))
	require.NoError(t, err)
	through, err := cache.Open(t.Context(), c, "suite", kv.JSON[int](), cache.WithMaxStaleness(bound))
	require.NoError(t, err)
	source, err := config.Open(t.Context(), c, "suite")
	require.NoError(t, err)
	value, err := config.Bind[int](source, "count")
	require.NoError(t, err)
	readings := []*reading{
		{name: "replica", refuses: cache.ErrStale, read: func() (int, time.Duration, error) {
			e, err := replica.Get(t.Context(), "count")
			return e.Value, bound, err
		}},
		{name: "cache", refuses: kv.ErrUnavailable, read: func() (int, time.Duration, error) {
			e, err := through.Get(t.Context(), "count")
			return e.Value, bound, err
		}},
		{name: "config", read: func() (int, time.Duration, error) {
			age := source.Status().Age // first: what is loaded later may only be newer
			return value.Load(), age, nil
		}},
	}
	done := make(chan struct{})
	var following sync.WaitGroup
	for _, r := range readings {
		following.Go(func() { r.follow(l, done) })
	}
	for i, cut := range cluster.Members {
		one, other := cluster.Members[(i+1)%3], cluster.Members[(i+2)%3]
		cut.InjectPartition(t, one, other)
		rest := newClient(t, []string{one.GRPCURL, other.GRPCURL})
		for end := time.Now().Add(3 * bound); time.Now().Before(end); {
			insist(t, rest, "suite/count", strconv.Itoa(len(l.acked)))
			l.note()
		}
		cut.RecoverPartition(t, one, other)
		cluster.WaitMembersForLeader(t, cluster.Members)
	}
	last := len(l.acked) - 1
	require.Eventually(t, func() bool { return value.Load() == last }, 30*time.Second, time.Millisecond)
	require.NoError(t, replica.WaitRevision(t.Context(), source.Status().Revision))
	close(done)
	following.Wait()
	for _, r := range readings {
		r.look(l)
		assert.Empty(t, r.broken, r.name)
		assert.Equal(t, last, r.latest, "%s ends with what was written last", r.name)
		assert.Positive(t, r.served, r.name)
		t.Logf("%s: %d reads served, %d refused, of %d counts", r.name, r.served, r.refused, last)
	}
	require.NoError(t, source.Close())
	require.NoError(t, through.Close())
	require.NoError(t, replica.Close())
}
