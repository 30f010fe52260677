package lease_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/internal/scope"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/watch"
)

func TestManager_LogsEachOutageOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		var out etcdtest.Log
		m := f.manager(t, lease.WithLogger(slog.New(slog.NewTextHandler(&out, nil))))
		openSession(t, m, 12*time.Second)
		f.setFault(refuseRequests)
		time.Sleep(7 * time.Second)
		f.setFault(noFault)
		time.Sleep(2 * time.Second)
		f.setFault(refuseRequests)
		time.Sleep(20 * time.Second)
		require.NoError(t, m.Close())
		for text, n := range map[string]int{"leases are not renewed": 2, "leases are renewed again": 1, "lease lost": 1} {
			assert.Equal(t, n, strings.Count(out.String(), text), text)
		}
	})
}

func TestManager_LogsEndOfOutageWithoutSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		var out etcdtest.Log
		m := f.manager(t, lease.WithLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))))
		s := openSession(t, m, 12*time.Second)
		f.setFault(loseBoth)
		<-s.Context().Done()
		time.Sleep(time.Minute)
		f.setFault(noFault)
		openSession(t, m, 12*time.Second)
		time.Sleep(time.Minute)
		require.NoError(t, m.Close())
		for text, n := range map[string]int{"leases are not renewed": 1, "leases are renewed again": 1, "lease lost": 1, `=""`: 0} {
			assert.Equal(t, n, strings.Count(out.String(), text), "%s: %s", text, &out)
		}
	})
}

func TestManager_DoesNotLogStreamReplacedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		var out etcdtest.Log
		m := f.manager(t, lease.WithLogger(slog.New(slog.NewTextHandler(&out, nil))))
		s := openSession(t, m, 12*time.Second)
		restarts := 0
		f.setOnRenewal(func(int64, string) error { // as a member that restarts
			restarts++
			if restarts == 1 {
				return errRefused
			}
			return nil
		})
		time.Sleep(time.Minute)
		require.NoError(t, s.Err())
		assert.EqualValues(t, 1, m.Stats().Failures)
		require.NoError(t, m.Close())
		assert.Empty(t, out.String())
	})
}

func TestManager_BoundsAndReportsRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		var reported []string
		m := f.manager(t, lease.WithRetry(kv.RetryPolicy{MaxAttempts: 2}), lease.WithTimeouts(3*time.Second, 4*time.Second),
			scopetest.Option[lease.Option](scope.Hooks{Retry: func(_ context.Context, op scope.Operation, _ int, _ error) {
				reported = append(reported, op.Name)
			}}))
		f.loseNextResponses("describe", 9)
		_, err := m.Describe(t.Context(), 7)
		require.ErrorIs(t, err, lease.ErrUnavailable)
		assert.Equal(t, []string{"describe"}, reported)
		assert.EqualValues(t, 1, m.Stats().Retries)
		f.setFault(loseBoth)
		start := time.Now()
		_, err = m.Grant(t.Context(), time.Minute)
		require.ErrorIs(t, err, lease.ErrUnavailable)
		assert.Equal(t, 4*time.Second, time.Since(start))
	})
}

func TestManager_WatchesKeysThroughGivenWatcher(t *testing.T) {
	t.Parallel()
	cli, dir := etcdtest.Client(t), etcdtest.Prefix(t)
	w := etcdtest.Must(watch.New(cli, watch.WithNamespace(dir)))
	t.Cleanup(func() { assert.NoError(t, w.Close()) })
	m := newManager(t, cli, lease.WithNamespace(dir), lease.WithWatcher(w))
	_, err := m.Namespace("below").OpenKey(t.Context(), "k", []byte("v"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.Active() == 1 }, 10*time.Second, time.Millisecond)
	deleted, err := cli.Delete(t.Context(), dir+"below/k")
	require.NoError(t, err)
	require.EqualValues(t, 1, deleted.Deleted)
	for b, err := range w.Watch(t.Context(), watch.Key("below/k"), watch.WithAfter(deleted.Header.Revision)) {
		require.NoError(t, err)
		require.Equal(t, []byte("v"), b.Events[0].Value)
		break
	}
	require.NoError(t, m.Close())
	assert.Zero(t, w.Active())
	for b, err := range w.Watch(t.Context(), watch.Prefix(""), watch.WithSnapshot()) {
		require.NoError(t, err, "it is still open")
		assert.Empty(t, b.Events)
		break
	}
}

func TestKey_WithoutWatcherIsRestoredAfterLeaseLoss(t *testing.T) {
	t.Parallel()
	dir, direct := etcdtest.Prefix(t), etcdtest.Client(t)
	m := managerWithoutWatcher(t, dir)
	k, err := m.OpenKey(t.Context(), "k", []byte("v"))
	require.NoError(t, err)
	s, err := m.Shared(t.Context())
	require.NoError(t, err)
	require.NoError(t, m.Revoke(t.Context(), s.ID()))
	require.Eventually(t, func() bool {
		r, err := direct.Get(t.Context(), dir+"k")
		return assert.NoError(t, err) && len(r.Kvs) == 1
	}, 10*time.Second, 5*time.Millisecond, "the loss of the lease is noticed all the same")
	require.NoError(t, k.Update(t.Context(), []byte("w")))
	require.NoError(t, m.Close())
}
