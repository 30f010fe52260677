package cache_test

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestCache_ErrorsNameDirAndWhatIsClosed(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	mustPut(t, p.KV(), "dir/a", `{"Name":7}`)
	r := openReplica(t, p, "dir", kv.JSON[user]())
	c := openCache(t, p, "dir", kv.JSON[user]())
	for what, from := range map[string]cache.Reader[user]{"replica": r, "cache": c} {
		_, err := from.Get(t.Context(), "a")
		require.ErrorIs(t, err, kv.ErrDecode)
		require.ErrorContains(t, err, `cache: get "dir/a": value cannot be decoded: revision `)
		require.ErrorContains(t, err, `: field "Name": number where string is expected`)
		_, err = from.Get(t.Context(), "")
		require.ErrorIs(t, err, cache.ErrInvalid)
		require.ErrorContains(t, err, `"dir/"`)
		require.NoError(t, map[string]interface{ Close() error }{"replica": r, "cache": c}[what].Close())
		_, err = from.Get(t.Context(), "a")
		require.ErrorIs(t, err, cache.ErrClosed)
		require.EqualError(t, err, `cache: get "dir/a": `+what+` closed`)
	}
}

func TestCache_StatsHaveJSONNames(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(cache.Stats{BadEntries: 1})
	require.NoError(t, err)
	assert.JSONEq(t, `{"hits":0,"misses":0,"fills":0,"invalidations":0,"evictions":0,"stale":0,"badEntries":1,"restarts":0,"entries":0,"bad":0}`, string(text))
}

func TestReplica_LogsStalenessOnceWhenItBeginsAndEnds(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	p := parttest.New(t, server.Client(t), "app")
	mustPut(t, p.KV(), "dir/a", "1")
	var text etcdtest.Log
	r := openReplica(t, p, "dir", kv.String(), cache.WithMaxStaleness(minStaleness), cache.WithLogger(slog.New(slog.NewTextHandler(&text, nil))))
	server.Pause()
	defer server.Resume()
	parttest.Eventually(t, func() bool { _, err := r.Get(t.Context(), "a"); return err != nil }, "the replica is too old")
	const begins, ends = `level=WARN msg="cache is staler than allowed" dir=dir age=`, `level=WARN msg="cache is fresh again" dir=dir after=`
	parttest.Eventually(t, func() bool { return strings.Contains(text.String(), begins) }, "a record")
	server.Resume()
	parttest.Eventually(t, func() bool { return strings.Contains(text.String(), ends) }, "a record")
	assert.Equal(t, 1, strings.Count(text.String(), begins))
	assert.Contains(t, text.String(), "bound=2s")
	_, rest, _ := strings.Cut(text.String(), begins)
	rest, _, _ = strings.Cut(rest, " ")
	age, err := time.ParseDuration(rest)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, age, minStaleness, "a record says how old the cache may become before the next look")
}
