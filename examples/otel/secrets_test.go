package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lock"
)

// planted is the secret that must appear nowhere. It is the password, the token, and all values.
const planted = "pl4nted-s3cret"

func assertHides(t *testing.T, text string) {
	t.Helper()
	bytes := fmt.Sprint([]byte(planted)) //nolint:staticcheck // as a list of numbers
	for _, form := range []string{planted, fmt.Sprintf("%x", planted), bytes} {
		assert.NotContains(t, text, form)
	}
}

func TestSecrets_AreNotInSpansLogsOrErrors(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	etcdtest.EnableAuth(t, s, etcdtest.User{Name: "app", Password: planted, Grants: []etcdtest.Grant{etcdtest.ReadWrite("app/")}})
	spans := tracetest.NewInMemoryExporter()
	traces := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	handler := otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(traces), otelgrpc.WithMeterProvider(sdkmetric.NewMeterProvider()))
	log := &etcdtest.Log{}
	opts := []etcdkit.Option{
		etcdkit.WithLogger(slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))),
		etcdkit.WithDialOptions(grpc.WithStatsHandler(handler)), etcdkit.WithObserver(observer(traces.Tracer("etcdkit"))),
	}
	secret := etcdkit.NewSecret(planted)
	for _, cfg := range []etcdkit.Config{
		{Endpoints: s.Endpoints(), Username: "root", Password: secret}, // not root's password
		{Endpoints: s.Endpoints(), Token: secret},                      // not a token of the server
	} {
		c, err := etcdkit.OpenLazy(cfg, opts...)
		require.NoError(t, err)
		_, err = c.KV().Get(t.Context(), "k")
		require.ErrorIs(t, err, etcdkit.ErrUnauthenticated)
		assertHides(t, err.Error())
		require.NoError(t, c.Close())
	}
	c, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: s.Endpoints(), Namespace: "app", Username: "app", Password: secret}, opts...)
	require.NoError(t, err)
	useEverything(t, c)
	require.NoError(t, c.Close())

	ctx, span := traces.Tracer("test").Start(t.Context(), "caller")
	observer(traces.Tracer("etcdkit")).Retry(ctx, etcdkit.Operation{Package: "kv", Name: "put"}, 1, errors.New("refused: "+planted))
	span.End()

	names := map[string]bool{}
	for _, span := range spans.GetSpans() {
		names[span.Name] = true
		assertHides(t, fmt.Sprintf("%+v", span))
	}
	for _, name := range []string{
		"kv get", "kv put", "kv create", "kv compare and swap", "kv update", "kv transact", "kv txn", "kv batch", "kv list", "lock wait", "lock hold",
		"lock campaign", "cache fill", "discovery register", "caller", "etcdserverpb.Auth/Authenticate",
	} {
		assert.True(t, names[name], "%q is a span: %v", name, names)
	}
	retry := named(t, spans.GetSpans(), "caller")
	require.Len(t, retry.Events, 1)
	assert.Contains(t, fmt.Sprintf("%+v", retry), "other error", "the attributes of events are searched")
	assert.Contains(t, log.String(), "value.hash", "writes are logged")
	assertHides(t, log.String())
}

// useEverything uses each package with the planted secret as its value, and in errors of callbacks.
func useEverything(t *testing.T, c *etcdkit.Client) {
	t.Helper()
	ctx, store, value := t.Context(), c.KV(), []byte(planted)
	errQuoting := errors.New("callback: " + planted)
	for name, op := range map[string]func() error{
		"create": func() error { _, err := store.Create(ctx, "k", value); return err },
		"swap":   func() error { _, err := store.CompareAndSwap(ctx, "k", []byte(planted+"x"), value); return err },
		"lease":  func() error { _, err := store.Put(ctx, "k", value, kv.WithLease(1)); return err },
		"decode": func() error { _, err := kv.NewTyped(store, "", kv.JSON[int]()).Get(ctx, "k"); return err },
		"update": func() error {
			_, err := store.Update(ctx, "k", func(kv.Entry[[]byte]) ([]byte, error) { return nil, errQuoting })
			return err
		},
		"transact": func() error {
			_, err := store.Transact(ctx, func(context.Context, *kv.Tx) error { return errQuoting })
			return err
		},
		"lock": func() error {
			return c.Locks().Mutex("m").Do(ctx, func(context.Context, *lock.Held) error { return errQuoting })
		},
	} {
		_, err := store.Put(ctx, "k", value, kv.WithOnce())
		require.NoError(t, err)
		err = op()
		require.Error(t, err, name)
		if !errors.Is(err, errQuoting) {
			assertHides(t, err.Error())
		}
	}
	_, err := store.Transact(ctx, func(_ context.Context, tx *kv.Tx) error { return tx.Put("k", value) })
	require.NoError(t, err)
	_, err = store.Txn(ctx).If(clientv3.Compare(clientv3.Value("k"), "=", planted)).Then(clientv3.OpPut("k", planted)).Commit()
	require.NoError(t, err)
	_, err = store.Batch(ctx, kv.OpPut("k", value))
	require.NoError(t, err)
	for _, err := range store.List(ctx, "") {
		require.NoError(t, err)
	}
	led, err := c.Locks().Election("e").Campaign(ctx, planted)
	require.NoError(t, err)
	require.NoError(t, led.Proclaim(ctx, strings.Repeat(planted, 2)))
	require.NoError(t, led.Release(ctx))
	k, err := c.Leases().OpenKey(ctx, "alive", value)
	require.NoError(t, err)
	require.NoError(t, k.Close())

	read, err := cache.Open(ctx, c, "dir", kv.String())
	require.NoError(t, err)
	_, err = read.Store().Put(ctx, "k", planted)
	require.NoError(t, err)
	read.InvalidateAll()
	_, err = read.Get(ctx, "k")
	require.NoError(t, err)
	require.NoError(t, read.Close())
	source, err := config.Open(ctx, c, "cfg")
	require.NoError(t, err)
	_, err = config.Set(ctx, source, "password", planted)
	require.NoError(t, err)
	require.NoError(t, source.Close())
	registry, err := discovery.New(c)
	require.NoError(t, err)
	registered, err := registry.Register(ctx, discovery.Instance{
		Service: "svc", ID: "i", Host: "h", Port: 1, Metadata: map[string]string{"token": planted},
	})
	require.NoError(t, err)
	require.NoError(t, registered.Close())
	require.NoError(t, registry.Close())
}
