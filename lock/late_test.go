package lock_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

// parkingKV applies one transaction, once it is armed, and loses its response when it is released.
type parkingKV struct {
	clientv3.KV

	armed         atomic.Bool
	applied, goOn chan struct{}
}

func (k *parkingKV) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	if !k.armed.CompareAndSwap(true, false) {
		return k.KV.Do(ctx, op)
	}
	_, _ = k.KV.Do(ctx, op)
	close(k.applied)
	<-k.goOn
	return clientv3.OpResponse{}, status.Error(codes.Unavailable, "error reading from server: EOF")
}

func TestMutex_TokenExceedsTurnsDuringLostResponse(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	cli := etcdtest.Client(t)
	k := &parkingKV{KV: cli.KV, applied: make(chan struct{}), goOn: make(chan struct{})}
	cli.KV = k
	late, _ := lockerOver(t, cli, dir)
	l, _ := newLocker(t, dir)
	first := mustLock(t, l.Mutex("m"))

	k.armed.Store(true)
	heir := waiting(func() (*lock.Held, error) { return late.Mutex("m").Lock(timely(t)) })
	closed(t, k.applied, "the heir's key is there")
	turn := waiting(func() (*lock.Held, error) { return l.Mutex("m").Lock(timely(t)) })
	eventually(t, func() bool { return l.Stats().Waiting == 1 })
	mustRelease(t, first)
	second := got(t, turn)
	require.NoError(t, second.err)
	mustRelease(t, second.v)
	close(k.goOn)
	r := got(t, heir)
	require.NoError(t, r.err)
	assert.Greater(t, r.v.Token(), second.v.Token())
	require.NoError(t, r.v.Verify(t.Context()))
	mustRelease(t, r.v)
}

func TestLocker_EndedContextSendsNothing(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	l, _ := lockerOver(t, count.Client(t), etcdtest.Prefix(t), lock.WithTTL(within))
	mustRelease(t, mustLock(t, l.Mutex("m"))) // there is a session
	ctx, stop := context.WithCancel(t.Context())
	stop()
	count.Reset()
	for name, call := range map[string]func(context.Context) error{
		"Lock":     func(ctx context.Context) error { _, err := l.Mutex("m").Lock(ctx); return err },
		"TryLock":  func(ctx context.Context) error { _, err := l.Mutex("m").TryLock(ctx); return err },
		"Campaign": func(ctx context.Context) error { _, err := l.Election("e").Campaign(ctx, "x"); return err },
	} {
		require.ErrorIs(t, call(ctx), context.Canceled, name)
	}
	require.NoError(t, l.Close()) // which awaits what is under way
	assert.Zero(t, count.Count("KV/Txn"), count.Counts())
}

func TestMutex_UnansweredTurnHasKnownOutcome(t *testing.T) {
	t.Parallel()
	dir := etcdtest.Prefix(t)
	k, cli := newLossy(t)
	l, _ := lockerOver(t, cli, dir)
	h := mustLock(t, l.Mutex("m"))
	ctx, stop := context.WithCancel(t.Context())
	next := waiting(func() (*lock.Held, error) { return l.Mutex("m").Lock(ctx) })
	eventually(t, func() bool { return l.Stats().Waiting == 1 })
	k.mood.Store(loseResponses)
	mustRelease(t, h)
	eventually(t, func() bool { return l.Stats().Waiting == 0 })
	time.AfterFunc(100*time.Millisecond, stop)
	err := got(t, next).err
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, lock.ErrUnknownOutcome, "it does not hold, for certain")
	k.mood.Store(healthy)
	queued(t, cli, dir+"locks/m/", 0)
}

func TestLocker_UnansweredReadHasKnownOutcome(t *testing.T) {
	t.Parallel()
	proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	l, _ := lockerOver(t, etcdtest.NewClient(t, proxy.Endpoints()), etcdtest.Prefix(t))
	h := mustLock(t, l.Mutex("m"))
	proxy.Blackhole(false, true)
	for name, ask := range map[string]func(context.Context) error{
		"Leader": func(ctx context.Context) error { _, err := l.Election("e").Leader(ctx); return err },
		"Verify": h.Verify,
	} {
		ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err := ask(ctx)
		stop()
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
		require.NotErrorIs(t, err, lock.ErrUnknownOutcome, name)
	}
	proxy.Heal()
	mustRelease(t, h)
}
