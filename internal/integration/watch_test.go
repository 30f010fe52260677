//nolint:paralleltest // a cluster, and the machine, to itself
package integration_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/watch"
)

// seen is what a watch has delivered, one entry a change.
type seen struct {
	mu      sync.Mutex
	changes []string
	upTo    int64
}

func entry(rev int64, key, value string) string { return fmt.Sprintf("%d %s=%s", rev, key, value) }

func (s *seen) handle(_ context.Context, b watch.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range b.Events {
		s.changes = append(s.changes, entry(e.ModRevision, e.Key, string(e.Value)))
	}
	s.upTo = b.Revision
	return nil
}

func (s *seen) reached(rev int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.upTo >= rev
}

// truth is the history of a prefix after a revision up to another, as etcd itself tells it.
func truth(t *testing.T, cli *clientv3.Client, prefix string, after, upTo int64) (all []string) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	for resp := range cli.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1)) {
		require.NoError(t, resp.Err())
		for _, e := range resp.Events {
			all = append(all, entry(e.Kv.ModRevision, string(e.Kv.Key), string(e.Kv.Value)))
			if e.Kv.ModRevision == upTo {
				return all
			}
		}
	}
	require.FailNow(t, "etcd does not tell its history")
	return nil
}

// Each member is cut off from the others in turn, so the one that serves the watch is among them.
// It goes on answering the client, even progress requests; that it has no leader is what gives it
// away.
func TestWatch_LeavesPartitionedMember(t *testing.T) {
	cluster := newCluster(t)
	c := open(t, cluster.Endpoints())
	all := newClient(t, cluster.Endpoints())
	first, err := all.Put(t.Context(), "suite/begin", "")
	require.NoError(t, err)
	got := &seen{}
	sub, err := c.Watcher().Subscribe(watch.Prefix("suite/"), got.handle, watch.WithAfter(first.Header.Revision))
	require.NoError(t, err)
	<-sub.Ready()
	reopened := sub.Status().Reopened
	var last int64
	for i, cut := range cluster.Members {
		one, other := cluster.Members[(i+1)%3], cluster.Members[(i+2)%3]
		cut.InjectPartition(t, one, other)
		began := time.Now()
		rest := newClient(t, []string{one.GRPCURL, other.GRPCURL})
		for n := range 50 {
			last = insist(t, rest, fmt.Sprintf("suite/%d", n%7), fmt.Sprint(i, n))
		}
		written := time.Since(began)
		require.Eventually(t, func() bool { return got.reached(last) }, 30*time.Second, time.Millisecond, "it is there within 6 s")
		t.Logf("member %d cut off: 50 writes in %v, all delivered after %v", i, written.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		cut.RecoverPartition(t, one, other)
		cluster.WaitMembersForLeader(t, cluster.Members)
	}
	assert.Greater(t, sub.Status().Reopened, reopened, "one of the three served the watch")
	require.NoError(t, sub.Close())
	assert.Equal(t, truth(t, all, "suite/", first.Header.Revision, last), got.changes, "every change, once, in order")
}

// insist writes until that succeeds. A write may be applied more often, which the history then has
// as well.
func insist(t *testing.T, cli *clientv3.Client, key, value string) int64 {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	for {
		resp, err := cli.Put(ctx, key, value)
		if err == nil {
			return resp.Header.Revision
		}
		require.NoError(t, ctx.Err(), "%v", err)
	}
}
