package wire_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// writes are the operations that change something.
var writes = map[string]func(context.Context, clientv3.KV) error{
	"put": func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Put(ctx, "k", "v")
		return err
	},
	"delete": func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Delete(ctx, "k")
		return err
	},
	"transaction": func(ctx context.Context, kv clientv3.KV) error {
		_, err := kv.Txn(ctx).Then(clientv3.OpPut("k", "v")).Commit()
		return err
	},
}

// kinds are the clients for which the guarantees must hold.
func kinds(t *testing.T) map[string]func(*clientv3.Config) {
	t.Helper()
	return map[string]func(*clientv3.Config){"hardened": hardened(t), "plain": func(*clientv3.Config) {}}
}

// forEach runs f for each kind of client and each write.
func forEach(t *testing.T, f func(t *testing.T, kind func(*clientv3.Config), write func(context.Context, clientv3.KV) error)) {
	t.Helper()
	for kind, opt := range kinds(t) {
		for name, write := range writes {
			t.Run(name+" over a "+kind+" client", func(t *testing.T) {
				t.Parallel()
				f(t, opt, write)
			})
		}
	}
}

func TestAttempt_NotSentWithoutConnection(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, kind func(*clientv3.Config), write func(context.Context, clientv3.KV) error) {
		t.Helper()
		kv, observed := wire.KV(etcdtest.NewClient(t, []string{"127.0.0.1:1"}, kind))
		require.True(t, observed)
		ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer stop()
		a := wire.Track(ctx, observed)
		require.ErrorIs(t, write(a, kv), context.DeadlineExceeded)
		assert.True(t, a.NotSent())
	})
}

func TestAttempt_SentIfResponseIsLost(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, kind func(*clientv3.Config), write func(context.Context, clientv3.KV) error) {
		t.Helper()
		arrived, release := make(chan struct{}), make(chan struct{})
		defer close(release)
		fake := etcdtest.StartFakeKV(t, func(int) error {
			close(arrived)
			<-release
			return nil
		})
		kv, observed := wire.KV(fake.Client(t, kind))
		ctx, stop := context.WithCancel(t.Context())
		a := wire.Track(ctx, observed)
		done := make(chan error, 1)
		go func() { done <- write(a, kv) }()
		<-arrived
		stop()
		require.ErrorIs(t, <-done, context.Canceled)
		assert.False(t, a.NotSent())
	})
}

func TestAttempt_SentIfAnswered(t *testing.T) {
	t.Parallel()
	forEach(t, func(t *testing.T, kind func(*clientv3.Config), write func(context.Context, clientv3.KV) error) {
		t.Helper()
		fake := etcdtest.StartFakeKV(t, func(n int) error {
			if n == 1 {
				return status.Error(codes.Unavailable, "try later")
			}
			return nil
		})
		kv, observed := wire.KV(fake.Client(t, kind))
		a := wire.Track(t.Context(), observed)
		require.Equal(t, codes.Unavailable, status.Code(write(a, kv)))
		assert.False(t, a.NotSent())
		a = wire.Track(t.Context(), observed)
		require.NoError(t, write(a, kv))
		assert.False(t, a.NotSent())
		assert.Equal(t, 2, fake.Calls())
	})
}

func TestAttempt_ProvesNothingIfNotObserved(t *testing.T) {
	t.Parallel()
	fake := etcdtest.StartFakeKV(t, func(int) error { return status.Error(codes.Unavailable, "try later") })
	plain := fake.Client(t)
	a := wire.Track(t.Context(), false)
	require.Error(t, writes["put"](a, plain.KV))
	assert.False(t, a.NotSent())

	// A hardened client is observed even if the attempt was not started as observed.
	held := etcdtest.NewClient(t, []string{"127.0.0.1:1"}, hardened(t))
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	a = wire.Track(ctx, false)
	assert.False(t, a.NotSent())
	require.Error(t, writes["put"](a, held.KV))
	assert.True(t, a.NotSent())
}

func TestKV_ReadsOnPlainClientCountAsSent(t *testing.T) {
	t.Parallel()
	kv, observed := wire.KV(etcdtest.Client(t))
	a := wire.Track(t.Context(), observed)
	_, err := kv.Get(a, "k")
	require.NoError(t, err)
	assert.False(t, a.NotSent())
	a = wire.Track(t.Context(), observed)
	stream, err := kv.GetStream(a, "k")
	require.NoError(t, err)
	_, err = clientv3.GetStreamToGetResponse(stream)
	require.NoError(t, err)
	assert.False(t, a.NotSent())
}

func TestAttempt_PassesOnContext(t *testing.T) {
	t.Parallel()
	type key struct{}
	ctx, stop := context.WithTimeout(context.WithValue(t.Context(), key{}, "v"), time.Hour)
	defer stop()
	a := wire.Track(ctx, true)
	assert.Equal(t, "v", a.Value(key{}))
	_, ok := a.Deadline()
	assert.True(t, ok)
	assert.Nil(t, wire.Track(t.Context(), true).Value(key{}))
	stop()
	assert.ErrorIs(t, a.Err(), context.Canceled)
}

func TestKV_SendsWriteOnce(t *testing.T) {
	t.Parallel()
	for _, code := range []codes.Code{codes.Canceled, codes.DeadlineExceeded, codes.Internal, codes.Unavailable, codes.Unknown} {
		forEach(t, func(t *testing.T, kind func(*clientv3.Config), write func(context.Context, clientv3.KV) error) {
			t.Helper()
			fake := etcdtest.StartFakeKV(t, func(int) error { return status.Error(code, "from a proxy") })
			kv, observed := wire.KV(fake.Client(t, kind))
			a := wire.Track(t.Context(), observed)
			require.Equal(t, code, status.Code(write(a, kv)))
			assert.Equal(t, 1, fake.Calls())
			assert.False(t, a.NotSent())
		})
	}
}

func TestKV_PlainClientAloneRepeatsWrites(t *testing.T) {
	t.Parallel()
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := etcdtest.StartFakeKV(t, func(int) error { return status.Error(codes.Canceled, "from a proxy") })
			cli := fake.Client(t, func(cfg *clientv3.Config) { cfg.MaxUnaryRetries = 4 })
			require.Error(t, write(t.Context(), cli.KV))
			assert.Equal(t, 4, fake.Calls(), "which KV must prevent")
		})
	}
}

func TestKV_RenewsTokenOnPlainClient(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.WithFlags("--auth-token=simple"))
	etcdtest.EnableAuth(t, s, etcdtest.User{Name: "app", Password: "p", Grants: []etcdtest.Grant{etcdtest.ReadWrite("k")}})
	root := s.Client(t, etcdtest.As("root", etcdtest.RootPassword))
	kv, _ := wire.KV(s.Client(t, etcdtest.As("app", "p")))
	for name, write := range writes {
		_, err := root.UserChangePassword(t.Context(), "app", "p") // ends all tokens of the user
		require.NoError(t, err)
		require.NoError(t, write(t.Context(), kv), name)
	}
}

func TestKV_RejectsRequestAboveSendLimit(t *testing.T) {
	t.Parallel()
	for kind, opt := range kinds(t) {
		kv, observed := wire.KV(etcdtest.Client(t, opt))
		a := wire.Track(t.Context(), observed)
		_, err := kv.Put(a, "k", strings.Repeat("v", 3<<20))
		require.Equal(t, codes.ResourceExhausted, status.Code(err), kind)
		assert.ErrorContains(t, err, "trying to send message larger than max", kind)
	}
}

// decorator is a user's decorator.
type decorator struct{ clientv3.KV }

// based is a decorator of this module.
type based struct{ clientv3.KV }

// Base returns the undecorated KV.
func (b based) Base() clientv3.KV { return b.KV }

// stub is a user's gRPC stub.
type stub struct{ pb.KVClient }

func TestKV_ReturnsKVOfUserUnchanged(t *testing.T) {
	t.Parallel()
	for kind, opt := range kinds(t) {
		cli := etcdtest.Client(t, opt)
		official := cli.KV
		for name, kv := range map[string]clientv3.KV{
			"a decorator":                    decorator{official},
			"a namespace":                    namespace.NewKV(official, "ns/"),
			"client/v3's over another stub":  clientv3.NewKVFromKVClient(stub{}, cli),
			"client/v3's over no stub":       clientv3.NewKVFromKVClient(nil, cli),
			"a decorator below one of ours":  based{decorator{official}},
			"nothing":                        nil,
			"a decorator below, and no conn": decorator{},
		} {
			cli.KV = kv
			got, observed := wire.KV(cli)
			assert.False(t, observed, "%s over a %s client", name, kind)
			if b, ok := kv.(based); ok {
				kv = b.KV
			}
			assert.Equal(t, kv, got, "%s over a %s client", name, kind)
		}
		cli.KV = based{official}
		got, observed := wire.KV(cli)
		assert.True(t, observed)
		assert.Equal(t, kind == "hardened", got == official, "the KV of a plain client is replaced by an equivalent")
	}
	offline := clientv3.NewCtxClient(t.Context())
	offline.KV = decorator{}
	got, observed := wire.KV(offline)
	assert.Equal(t, decorator{}, got)
	assert.False(t, observed)
}
