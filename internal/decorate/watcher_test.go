package decorate_test

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// loggingIn returns a client whose watches are decorated, the counter of its RPCs, and what ends
// its tokens.
func loggingIn(t *testing.T) (*clientv3.Client, *etcdtest.RPCCounter, func()) {
	t.Helper()
	s, count := guarded(t), etcdtest.Counter(t)
	cli := app(t, s, count.Option)
	install(cli, true)
	return cli, count, lapser(t, s)
}

// created opens a watch and waits until it is there.
func created(ctx context.Context, t *testing.T, cli *clientv3.Client) clientv3.WatchChan {
	t.Helper()
	w := cli.Watch(ctx, "app/k", clientv3.WithCreatedNotify())
	r, ok := <-w
	require.True(t, ok)
	require.NoError(t, r.Err())
	require.True(t, r.Created)
	return w
}

func put(t *testing.T, cli *clientv3.Client, key, value string) int64 {
	t.Helper()
	resp, err := cli.Put(t.Context(), key, value)
	require.NoError(t, err)
	return resp.Header.Revision
}

// values collects the values of the next n events.
func values(t *testing.T, w clientv3.WatchChan, n int) []string {
	t.Helper()
	var got []string
	for len(got) < n {
		r, ok := <-w
		require.True(t, ok)
		require.NoError(t, r.Err())
		for _, ev := range r.Events {
			got = append(got, string(ev.Kv.GetValue()))
		}
	}
	return got
}

func TestWatcher_SharesNewStreamAfterOldToken(t *testing.T) {
	t.Parallel()
	cli, count, lapse := loggingIn(t)
	old := created(t.Context(), t, cli)
	from := put(t, cli, "app/k", "1")
	put(t, cli, "app/k", "2")
	lapse()
	const many = 40
	fresh := make([]clientv3.WatchChan, many)
	var wg sync.WaitGroup
	for i := range fresh {
		wg.Go(func() { fresh[i] = cli.Watch(t.Context(), "app/k", clientv3.WithRev(from)) })
	}
	wg.Wait()
	put(t, cli, "app/k", "3")
	for _, w := range append([]clientv3.WatchChan{old}, fresh...) {
		assert.Equal(t, []string{"1", "2", "3"}, values(t, w, 3), "each event once")
	}
	assert.Equal(t, 2, count.Count(watches), "streams")
}

func TestWatcher_NotifiesCreationOnce(t *testing.T) {
	t.Parallel()
	cli, _, lapse := loggingIn(t)
	for range 2 {
		asked := cli.Watch(t.Context(), "app/k", clientv3.WithCreatedNotify())
		quiet := cli.Watch(t.Context(), "app/k")
		value := strconv.FormatInt(put(t, cli, "app/k", "v"), 10)
		first := <-asked
		assert.True(t, first.Created, value)
		assert.Equal(t, []string{"v"}, values(t, asked, 1))
		r := <-quiet
		assert.False(t, r.Created)
		assert.Len(t, r.Events, 1)
		lapse()
	}
}

func TestWatcher_RequestsProgressOnEachStream(t *testing.T) {
	t.Parallel()
	cli, _, lapse := loggingIn(t)
	old := created(t.Context(), t, cli)
	lapse()
	fresh := created(t.Context(), t, cli)
	elsewhere := created(clientv3.WithRequireLeader(t.Context()), t, cli)
	rev := put(t, cli, "app/other", "v")
	require.NoError(t, cli.RequestProgress(t.Context()))
	for _, w := range []clientv3.WatchChan{old, fresh} {
		r := <-w
		assert.True(t, r.IsProgressNotify())
		assert.Equal(t, rev, r.Header.Revision)
	}
	put(t, cli, "app/k", "v")
	for _, w := range []clientv3.WatchChan{old, fresh, elsewhere} {
		r := <-w
		assert.Len(t, r.Events, 1, "one request, one notification, and none to the streams of other metadata")
	}
}

func TestWatcher_DeliversAuthErrorAfterPasswordChange(t *testing.T) {
	t.Parallel()
	s := guarded(t)
	cli := app(t, s)
	install(cli, true)
	created(t.Context(), t, cli)
	root := s.Client(t, etcdtest.As("root", etcdtest.RootPassword))
	_, err := root.UserChangePassword(t.Context(), "app", "another")
	require.NoError(t, err)
	w := cli.Watch(t.Context(), "app/k")
	r := <-w
	assert.Equal(t, rpctypes.ErrAuthFailed, r.Err())
	_, open := <-w
	assert.False(t, open)
}

func TestWatcher_DeliversOtherRefusals(t *testing.T) {
	t.Parallel()
	cli, count, _ := loggingIn(t)
	w := cli.Watch(t.Context(), "foreign")
	r := <-w
	require.ErrorContains(t, r.Err(), "permission denied")
	_, open := <-w
	assert.False(t, open)

	rev := put(t, cli, "app/k", "1")
	_, err := cli.Put(t.Context(), "app/k", "2")
	require.NoError(t, err)
	w = cli.Watch(t.Context(), "app/k", clientv3.WithRev(rev-10))
	r = <-w
	require.ErrorIs(t, r.Err(), rpctypes.ErrCompacted, "a negative revision is answered so")
	_, open = <-w
	assert.False(t, open)
	assert.LessOrEqual(t, count.Count(watches), 2)
}

func TestWatcher_EndsSilentlyWithContext(t *testing.T) {
	t.Parallel()
	cli, _, lapse := loggingIn(t)
	created(t.Context(), t, cli)
	lapse()
	for name, w := range map[string]func(context.Context) clientv3.WatchChan{
		"that is read":      func(ctx context.Context) clientv3.WatchChan { return created(ctx, t, cli) },
		"that nobody reads": func(ctx context.Context) clientv3.WatchChan { return cli.Watch(ctx, "app/k", clientv3.WithRev(1)) },
	} {
		ctx, stop := context.WithCancel(t.Context())
		c := w(ctx)
		stop()
		for r := range c {
			assert.NoError(t, r.Err(), name)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	_, open := <-cli.Watch(ctx, "app/k")
	assert.False(t, open, "that never began")
}

func TestWatcher_CloseEndsWatchesOfAllStreams(t *testing.T) {
	t.Parallel()
	cli, _, lapse := loggingIn(t)
	open := []clientv3.WatchChan{created(t.Context(), t, cli)}
	lapse()
	open = append(open, created(t.Context(), t, cli))
	for range 5 {
		put(t, cli, "app/k", "nobody reads this")
	}
	require.NoError(t, cli.Close())
	require.NoError(t, cli.Watcher.Close(), "twice is once")
	for _, w := range open {
		for r := range w {
			assert.NoError(t, r.Err())
		}
	}
	_, alive := <-cli.Watch(t.Context(), "app/k")
	assert.False(t, alive)
	require.Error(t, cli.RequestProgress(t.Context()))
}

func TestWatcher_SurvivesChurnWhileTokensExpire(t *testing.T) {
	t.Parallel()
	cli, _, lapse := loggingIn(t)
	rev := put(t, cli, "app/k", "v")
	done := make(chan struct{})
	for range 10 {
		go func() {
			for range 50 {
				ctx, stop := context.WithCancel(t.Context())
				r := <-cli.Watch(ctx, "app/k", clientv3.WithRev(rev))
				assert.NoError(t, r.Err())
				assert.Len(t, r.Events, 1)
				stop()
				done <- struct{}{}
			}
		}()
	}
	for n := range 10 * 50 {
		<-done
		if n%20 == 0 {
			lapse()
		}
	}
}
