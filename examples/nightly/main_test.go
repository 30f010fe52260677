package main

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/examples/internal/exampletest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
	"github.com/etcdkit/etcdkit/kv"
)

func TestMain(m *testing.M) { testmain.Run(m) }

func TestNightly_RunsEachNightOnce(t *testing.T) {
	assert.Equal(t, `2026-12-01: 3 woke up, 1 did it, 1 job was run
2026-12-02: 3 woke up, 1 did it, 1 job was run
2026-12-03: 3 woke up, 1 did it, 1 job was run
`, exampletest.Output(t, run))
}

func TestNightly_StopsOnInterrupt(t *testing.T) {
	exampletest.Interrupt(t, run, "2026-12-01")
}

// report returns what the job of a night has said.
func report(t *testing.T, client *etcdkit.Client, night string) string {
	t.Helper()
	e, err := kv.NewTyped(client.KV(), "nightly", kv.JSON[string]()).Get(t.Context(), night)
	require.NoError(t, err)
	return e.Value
}

func TestOnce_RefusesInstanceThatLostTheLock(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	network := server.Proxy()
	slow, other := etcdtest.OpenConfig(t, network.Config()), server.Open(t)
	const night = "2026-12-01"

	did, err := once(t.Context(), slow, night, func(_ context.Context, _ string, first int64) (string, error) {
		network.Blackhole() // for etcd, the first instance is dead, while it works on without a look at its context
		did, err := once(t.Context(), other, night, func(_ context.Context, _ string, second int64) (string, error) {
			assert.Greater(t, second, first, "other systems can refuse the first one")
			return "of the second", nil
		})
		assert.NoError(t, err)
		assert.True(t, did)
		network.Heal()
		return "of the first", nil
	})

	require.Error(t, err)
	assert.False(t, did)
	assert.Equal(t, "of the second", report(t, other, night))
}

func TestOnce_FailedJobIsDoneByTheNextInstance(t *testing.T) {
	t.Parallel()
	config := etcdtest.Config(t)
	a, b := etcdtest.OpenConfig(t, config), etcdtest.OpenConfig(t, config)
	const night = "2026-12-01"

	did, err := once(t.Context(), a, night, func(context.Context, string, int64) (string, error) { return "", assert.AnError })
	require.ErrorIs(t, err, assert.AnError)
	assert.False(t, did)

	did, err = once(t.Context(), b, night, func(context.Context, string, int64) (string, error) { return "of b", nil })
	require.NoError(t, err)
	assert.True(t, did)
	assert.Equal(t, "of b", report(t, a, night))
}

func TestNightly_BeginsWithTheNightBefore(t *testing.T) {
	t.Parallel()
	client := etcdtest.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	want := lastNight(time.Now()).Format(time.DateOnly)
	err := nightly(ctx, client, func(_ context.Context, night string, _ int64) (string, error) {
		assert.Contains(t, []string{want, lastNight(time.Now()).Format(time.DateOnly)}, night)
		cancel()
		return "done", nil
	})
	require.ErrorIs(t, err, context.Canceled)
}

func TestNightly_LastNight(t *testing.T) {
	t.Parallel()
	for now, want := range map[string]string{
		"2026-12-02T02:59:59Z":      "2026-12-01T03:00:00Z",
		"2026-12-02T03:00:00Z":      "2026-12-02T03:00:00Z",
		"2026-12-02T23:59:59Z":      "2026-12-02T03:00:00Z",
		"2027-01-01T04:30:00+02:00": "2026-12-31T03:00:00Z",
	} {
		at, err := time.Parse(time.RFC3339, now)
		require.NoError(t, err)
		assert.Equal(t, want, lastNight(at).Format(time.RFC3339), now)
	}
}
