package integration_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// chronicle is the history of the keys below a dir as etcd itself has it: what a plain watch by
// another client has told, from before the first change on.
type chronicle struct {
	cli     *clientv3.Client
	dir     string
	rev     atomic.Int64  // of the last change so far
	done    chan struct{} // closed when the last change is in
	changes []change
	err     error
}

// change is one put or delete.
type change struct {
	key, value string // the key below the dir
	deleted    bool
	rev        int64
	seen       int64 // when it was told, on the clock of the test
}

// newChronicle starts a chronicle. cli must be used by nothing that the test tampers with.
func newChronicle(t *testing.T, cli *clientv3.Client, dir string, clock func() int64) *chronicle {
	t.Helper()
	now, err := cli.Get(t.Context(), dir)
	require.NoError(t, err)
	c := &chronicle{cli: cli, dir: dir, done: make(chan struct{})}
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		defer close(c.done)
		for next := now.Header.Revision + 1; next != 0 && ctx.Err() == nil; {
			next = c.write(cli.Watch(ctx, dir, clientv3.WithPrefix(), clientv3.WithRev(next)), next, clock)
			spend(t, 10*time.Millisecond)
		}
	}()
	t.Cleanup(func() {
		stop()
		<-c.done
	})
	return c
}

// write adds what a watch from a revision on tells, and returns the revision to go on from, 0 for
// none: the last change is in, or history is missing. A watch may end when its member loses the
// leader.
func (c *chronicle) write(watch clientv3.WatchChan, next int64, clock func() int64) int64 {
	for resp := range watch {
		if resp.CompactRevision != 0 {
			c.err = resp.Err()
			return 0
		}
		seen := clock()
		for _, e := range resp.Events {
			key := string(e.Kv.Key[len(c.dir):])
			if key == lastKey {
				return 0
			}
			c.changes = append(c.changes, change{
				key: key, value: string(e.Kv.Value), deleted: e.Type == mvccpb.DELETE, rev: e.Kv.ModRevision, seen: seen,
			})
			c.rev.Store(e.Kv.ModRevision)
			next = e.Kv.ModRevision + 1
		}
	}
	return next
}

const lastKey = "~last" // is put when all is over

// read returns all changes, once nothing is being written any more.
func (c *chronicle) read(t *testing.T) []change {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		_, err := c.cli.Put(ctx, c.dir+lastKey, "")
		return err == nil
	}, 30*time.Second, 50*time.Millisecond)
	timer := time.NewTimer(30 * time.Second)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		require.FailNow(t, "the watch does not tell of the last change")
	}
	require.NoError(t, c.err)
	return c.changes
}
