package kv_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/kv"
)

// logBuffer is what was written to a log.
type logBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *logBuffer) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.Reset()
	return l.String()
}

func (l *logBuffer) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: level}))
}

const secret = "correct-horse-battery-staple"

// writesOf is every kind of write of a value.
func writesOf(t *testing.T, b bench, value string) map[string]func(key string) error {
	t.Helper()
	ctx, v := t.Context(), []byte(value)
	return map[string]func(key string) error{
		"put":    func(key string) error { _, err := b.Put(ctx, key, v); return err },
		"create": func(key string) error { _, err := b.Create(ctx, key, v); return err },
		"replace": func(key string) error {
			_, err := b.Replace(ctx, key, v, b.put(t, key, "old"))
			return err
		},
		"compare and swap": func(key string) error {
			b.put(t, key, "old")
			_, err := b.CompareAndSwap(ctx, key, []byte("old"), v)
			return err
		},
		"update": func(key string) error {
			_, err := b.Update(ctx, key, func(raw) ([]byte, error) { return v, nil }, kv.WithUpsert())
			return err
		},
		"batch": func(key string) error { _, err := b.Batch(ctx, kv.OpPut(key, v)); return err },
		"txn":   func(key string) error { _, err := b.Txn(ctx).Then(clientv3.OpPut(key, value)).Commit(); return err },
		"typed": func(key string) error {
			_, err := kv.NewTyped(b.Store, "", kv.String()).Put(ctx, key, value)
			return err
		},
	}
}

func TestWithLogger_ShowsLengthAndHashOfValue(t *testing.T) { //nolint:tparallel // one log
	t.Parallel()
	var log logBuffer
	b := newBench(t, kv.WithLogger(log.logger(slog.LevelDebug)))
	for name, write := range writesOf(t, b, secret) { //nolint:paralleltest // as above
		t.Run(name, func(t *testing.T) {
			require.NoError(t, write("key-"+name))
			text := log.take()
			assert.Contains(t, text, "key-"+name)
			assert.Contains(t, text, "value.bytes=28")
			assert.Contains(t, text, "value.hash=")
			assert.Contains(t, text, "level=DEBUG")
			assert.NotContains(t, text, secret)
		})
	}
	require.NoError(t, func() error { _, err := b.Put(t.Context(), "k", []byte("one")); return err }())
	one := log.take()
	require.NoError(t, func() error { _, err := b.Put(t.Context(), "k", []byte("one")); return err }())
	again := log.take()
	require.NoError(t, func() error { _, err := b.Put(t.Context(), "k", []byte("two")); return err }())
	two := log.take()
	hash := func(line string) string { _, after, _ := strings.Cut(line, "value.hash="); return after }
	assert.Equal(t, hash(one), hash(again))
	assert.NotEqual(t, hash(one), hash(two))
}

func TestWithLogger_LogsWritesAtDebugOnly(t *testing.T) {
	t.Parallel()
	var log logBuffer
	b := newBench(t, kv.WithLogger(log.logger(slog.LevelInfo)))
	for name, write := range writesOf(t, b, secret) {
		require.NoError(t, write("key-"+name))
	}
	assert.Empty(t, log.take())
}

func TestWithLogger_ShortensLongKey(t *testing.T) {
	t.Parallel()
	var log logBuffer
	b := newBench(t, kv.WithLogger(log.logger(slog.LevelDebug)))
	_, err := b.Put(t.Context(), strings.Repeat("k", 3000), nil)
	require.NoError(t, err)
	text := log.take()
	assert.Contains(t, text, strconv.Itoa(len(b.dir)+3000)+" bytes")
	assert.Less(t, len(text), 500)
}

// A value that was refused, or does not decode, is not in the error either.
func TestStore_ErrorsContainNoValues(t *testing.T) {
	t.Parallel()
	var log logBuffer
	b := newBench(t, kv.WithLogger(log.logger(slog.LevelDebug)))
	g, lose := hold(t, b, errOwner)
	lose()
	b.put(t, "k", secret)
	ctx, v := t.Context(), []byte(secret)
	var failures []error
	fail := func(_ any, err error) {
		require.Error(t, err)
		failures = append(failures, err)
	}
	fail(b.Create(ctx, "k", v))
	fail(b.Replace(ctx, "k", v, 1))
	fail(b.CompareAndSwap(ctx, "k", append(v, '!'), v))
	fail(b.CompareAndDelete(ctx, "k", append(v, '!')))
	fail(b.Put(ctx, "k", v, kv.WithGuard(g)))
	fail(b.Put(ctx, "k", v, kv.WithLease(12345)))
	fail(b.Put(ctx, "k", v, kv.WithTTL(-1)))
	fail(b.Batch(ctx, kv.OpPut("k", v, kv.WithGuard(g))))
	fail(b.Put(ctx, "k", bytes.Repeat(v, 100_000)))
	fail(b.Txn(ctx).Guard(g).If(clientv3.Compare(clientv3.Value("k"), "=", secret)).Then(clientv3.OpPut("k", secret)).Commit())
	fail(kv.NewCheckpoint(b.Store, "k").Load(ctx))
	fail(kv.NewTyped(b.Store, "", kv.JSON[int]()).Get(ctx, "k"))
	b.put(t, "text", `"`+secret+`"`)
	fail(kv.NewTyped(b.Store, "", kv.JSON[int]()).Get(ctx, "text"))
	fail(kv.NewTyped(b.Store, "", kv.JSON[time.Time]()).Get(ctx, "text"))
	for _, err := range failures {
		for ; err != nil; err = errors.Unwrap(err) {
			assert.NotContains(t, err.Error(), secret)
			assert.NotContains(t, err.Error(), "horse")
		}
	}
	assert.NotContains(t, log.take(), secret)
}
