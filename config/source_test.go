package config_test

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

type banner struct {
	Text string `json:"text"`
	Days []int  `json:"days"`
}

type level int

func TestSource_ShowsKeysBelowDir(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "http/rate", "100")
	put(t, p, "empty", "")
	_, err := p.KV().Put(t.Context(), "conf2/other", []byte("x"))
	require.NoError(t, err)
	s := open(t, p)

	assert.Equal(t, map[string]string{"http/rate": "100", "empty": ""}, contents(s))
	assert.Equal(t, []string{"empty", "http/rate"}, s.Keys())
	for _, b := range maps.Collect(s.All()) {
		assert.NotNil(t, b, "nil would mean that there is no value")
	}
	st := s.Status()
	assert.Equal(t, config.Live, st.Origin)
	assert.NoError(t, st.Err)
	assert.Less(t, st.Age, parttest.Timeout)
	assert.Positive(t, st.Revision)

	rev := put(t, p, "http/rate", "200")
	waitForRevision(t, s, rev)
	n, err := config.Get[int](s, "http/rate")
	require.NoError(t, err)
	assert.Equal(t, 200, n)
	assert.Equal(t, config.Provenance{Key: "http/rate", Origin: config.Live, Revision: rev}, s.Provenance("http/rate"))
	assert.Equal(t, config.Provenance{Key: "none", Origin: config.Defaults}, s.Provenance("none"))

	rev = del(t, p, "http/rate")
	waitForRevision(t, s, rev)
	_, err = config.Get[int](s, "http/rate")
	require.ErrorIs(t, err, kv.ErrNotFound)
	require.EqualError(t, err, `config: get "http/rate": key not found`)
	assert.Equal(t, 7, config.GetOr(s, "http/rate", 7))
	assert.Equal(t, 1, s.Stats().Keys)
}

// checkStored writes a value, reads it, and compares the stored bytes with want.
func checkStored[T any](t *testing.T, s *config.Source, p *parttest.Parts, key string, v T, want string) {
	t.Helper()
	_, err := config.Set(t.Context(), s, key, v)
	require.NoError(t, err)
	e, err := p.KV().Get(t.Context(), "conf/"+key)
	require.NoError(t, err)
	assert.Equal(t, want, string(e.Value))
	got, err := config.Get[T](s, key)
	require.NoError(t, err, "a write is seen by its own process when it returns")
	assert.Equal(t, v, got)
}

func TestEncoding_MatchesDocumentedTable(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	text := "a note"
	checkStored(t, s, p, "text", " as it is\n", " as it is\n")
	checkStored(t, s, p, "bytes", []byte{0xff, 0}, "\xff\x00")
	checkStored(t, s, p, "bool", true, "true")
	checkStored(t, s, p, "int", int8(-7), "-7")
	checkStored(t, s, p, "named", level(3), "3")
	checkStored(t, s, p, "uint", uint64(1)<<63, "9223372036854775808")
	checkStored(t, s, p, "float", 0.25, "0.25")
	checkStored(t, s, p, "duration", 90*time.Second, "1m30s")
	checkStored(t, s, p, "addr", netip.MustParseAddr("10.0.0.1"), "10.0.0.1")
	checkStored(t, s, p, "when", time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), "2030-01-02T03:04:05Z")
	checkStored(t, s, p, "pointer", &text, "a note")
	checkStored(t, s, p, "struct", banner{"hi", []int{1, 2}}, `{"text":"hi","days":[1,2]}`)
	checkStored(t, s, p, "list", []string{"a", "b"}, `["a","b"]`)
	checkStored(t, s, p, "map", map[string]int{"a": 1}, `{"a":1}`)
	checkStored(t, s, p, "banner.yaml", banner{"hi", []int{1}}, "days:\n- 1\ntext: hi\n")
	checkStored(t, s, p, "timeout.yml", 5*time.Second, "5s")

	put(t, p, "int", " 12\n")
	waitForRevision(t, s, put(t, p, "duration", "2s\n"))
	assert.Equal(t, 12, config.GetOr(s, "int", 0), "space around a number is ignored")
	assert.Equal(t, 2*time.Second, config.GetOr(s, "duration", 0*time.Second))
}

func TestGet_WrongTypeErrorDoesNotQuoteValue(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	received, handler := recordErrors()
	for key, value := range map[string]string{
		"word": "s3cret", "big": "300", "json": `{"text":"s3cret","days":"s3cret"}`, "cut": `{"text":"s3cr`, "nan": "NaN",
		"two.yaml": "text: s3cret\n---\ntext: s3cret", "twice.yaml": "text: s3cret\ntext: s3cret", "tab.yaml": "text:\n\t- s3cret",
	} {
		put(t, p, key, value)
	}
	s := open(t, p, handler)
	for _, c := range []struct {
		name, want string
		get        func() error
	}{
		{"a word for a number", `config: get "word": bad value at revision N: value cannot be decoded: not a whole number that fits int`, func() error { _, err := config.Get[int](s, "word"); return err }},
		{"a number that is too big", `config: get "big": bad value at revision N: value cannot be decoded: not a whole number that fits uint8`, func() error { _, err := config.Get[uint8](s, "big"); return err }},
		{"a word for a boolean", `config: get "word": bad value at revision N: value cannot be decoded: neither true nor false`, func() error { _, err := config.Get[bool](s, "word"); return err }},
		{"a word for a duration", `config: get "word": bad value at revision N: value cannot be decoded: not a duration such as "5s"`, func() error { _, err := config.Get[time.Duration](s, "word"); return err }},
		{"no number at all", `config: get "nan": bad value at revision N: value cannot be decoded: not a number that fits float64`, func() error { _, err := config.Get[float64](s, "nan"); return err }},
		{"a field of another type", `config: get "json": bad value at revision N: value cannot be decoded: JSON: field "days": string where []int is expected`, func() error { _, err := config.Get[banner](s, "json"); return err }},
		{"JSON that ends too early", `config: get "cut": bad value at revision N: value cannot be decoded: JSON: it ends too early`, func() error { _, err := config.Get[banner](s, "cut"); return err }},
		{"a word for an address", `config: get "word": bad value at revision N: value cannot be decoded: netip.Addr: netip.parseAddrError`, func() error { _, err := config.Get[netip.Addr](s, "word"); return err }},
		{"two YAML documents", `config: get "two.yaml": bad value at revision N: value cannot be decoded: YAML: something follows the document`, func() error { _, err := config.Get[banner](s, "two.yaml"); return err }},
		{"a YAML field twice", `config: get "twice.yaml": bad value at revision N: value cannot be decoded: YAML: line 2: a field is already set`, func() error { _, err := config.Get[banner](s, "twice.yaml"); return err }},
		{"a tab in YAML", `config: get "tab.yaml": bad value at revision N: value cannot be decoded: YAML: line 2: a value begins with a character that needs quotes`, func() error { _, err := config.Get[banner](s, "tab.yaml"); return err }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := c.get()
			require.ErrorIs(t, err, kv.ErrDecode)
			var bad *config.BadValueError
			require.ErrorAs(t, err, &bad)
			assert.Equal(t, s.Provenance(bad.Key).Revision, bad.Revision)
			assert.Equal(t, c.want, withoutRevision(err))
		})
	}
	for range 3 {
		assert.Equal(t, 5, config.GetOr(s, "word", 5))
	}
	assert.Equal(t, "word", received.Await(t, 1).key)
	assert.EqualValues(t, 1, s.Stats().BadValues, "the same bad value is reported once")
}

func TestArguments_InvalidOnesAreRefusedUnsent(t *testing.T) {
	t.Parallel()
	count := etcdtest.Counter(t)
	p := parttest.New(t, count.Client(t), etcdtest.Prefix(t))
	s := open(t, p)
	other := open(t, p)
	require.NoError(t, other.Close())
	count.Reset()
	opening := func(o ...config.Option) func() error {
		return func() error { _, err := config.Open(t.Context(), p, "conf", o...); return err }
	}
	for _, c := range []struct {
		name, text string
		call       func() error
	}{
		{"no client", "client is nil", func() error { _, err := config.Open(t.Context(), nil, "conf"); return err }},
		{"a client without parts", "client is nil", func() error { _, err := config.Open(t.Context(), &parttest.Parts{}, "conf"); return err }},
		{"a dir with an empty segment", "a//b", func() error { _, err := config.Open(t.Context(), p, "a//b"); return err }},
		{"a fallback file without a name", "WithFallbackFile: no path", opening(config.WithFallbackFile(""))},
		{"a fallback file that is not there", "no such file", opening(config.WithFallbackFile(t.TempDir() + "/none.yaml"))},
		{"a state file without a name", "WithStateFile: no path", opening(config.WithStateFile(""))},
		{"a state file in no directory", "no such file", opening(config.WithStateFile(t.TempDir() + "/none/state.json"))},
		{"a state file that is a directory", "not a regular file", opening(config.WithStateFile(t.TempDir()))},
		{"an environment without a prefix", "SHOP", opening(config.WithEnvironment(""))},
		{"a prefix in lower case", "SHOP", opening(config.WithEnvironment("shop"))},
		{"a limit of nothing", "0 bytes", opening(config.WithMaxValueBytes(0))},
		{"get of an empty key", "empty", func() error { _, err := config.Get[int](s, ""); return err }},
		{"get of a key with a NUL byte", "control character", func() error { _, err := config.Get[int](s, "a\x00"); return err }},
		{"get of a key that is not UTF-8", "UTF-8", func() error { _, err := config.Get[int](s, "a\xff"); return err }},
		{"get of a channel", "cannot be stored", func() error { _, err := config.Get[chan int](s, "key"); return err }},
		{"set of a function", "cannot be stored", func() error { _, err := config.Set(t.Context(), s, "key", func() {}); return err }},
		{"set of a nil pointer", "cannot be stored", func() error { _, err := config.Set[*int](t.Context(), s, "key", nil); return err }},
		{"set of a key that is a dir", "dir/", func() error { _, err := config.Set(t.Context(), s, "dir/", 1); return err }},
		{"set of more than etcd takes", "the limit is", func() error { _, err := config.Set(t.Context(), s, "key", make([]byte, 2<<20)); return err }},
		{"delete of an empty key", "empty", func() error { _, err := s.Delete(t.Context(), ""); return err }},
		{"rollback to a revision that never is", "revision", func() error { _, err := s.Rollback(t.Context(), "key", -1); return err }},
		{"no source", "nil source", func() error { _, err := config.Get[int](nil, "key"); return err }},
		{"set of no source", "nil source", func() error { _, err := config.Set(t.Context(), nil, "key", 1); return err }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := c.call()
			require.ErrorIs(t, err, config.ErrInvalid)
			assert.ErrorContains(t, err, c.text)
			assert.ErrorContains(t, err, "config: ")
		})
	}
	t.Cleanup(func() { assert.Zero(t, count.Total()-count.CountOnlyReads(), "%v", count.Counts()) })
}

func TestSource_ReadsButDoesNotWriteAfterClose(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "rate", "100")
	s, err := config.Open(t.Context(), p, "conf")
	require.NoError(t, err)
	rate, err := config.Bind[int](s, "rate")
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())

	put(t, p, "rate", "200")
	assert.Equal(t, 100, rate.Load())
	assert.Equal(t, 100, config.GetOr(s, "rate", 0))
	assert.Equal(t, map[string]string{"rate": "100"}, contents(s))
	require.ErrorIs(t, s.Status().Err, config.ErrClosed)
	_, err = config.Set(t.Context(), s, "rate", 1)
	require.ErrorIs(t, err, config.ErrClosed)
	_, err = rate.Set(t.Context(), 1)
	require.ErrorIs(t, err, config.ErrClosed)
	_, err = s.Delete(t.Context(), "rate")
	require.ErrorIs(t, err, config.ErrClosed)
	_, err = s.Rollback(t.Context(), "rate", 1)
	require.ErrorIs(t, err, config.ErrClosed)
	_, err = config.Bind[int](s, "rate")
	require.ErrorIs(t, err, config.ErrClosed)
	for _, err := range s.History(t.Context(), "rate") {
		require.ErrorIs(t, err, config.ErrClosed)
	}
	s.Follow("", func(config.Change) { t.Error("called after Close") })()
	rate.Follow(func(int) { t.Error("called after Close") })()
}

func TestOpen_CloseLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "rate", "1")
	group := make(chan error, 10)
	for range cap(group) {
		go func() {
			for range shortOrLong(5, 50) {
				s, err := config.Open(t.Context(), p, "conf")
				if err != nil {
					group <- err
					return
				}
				s.Follow("", func(config.Change) {})
				if v, err := config.Bind[int](s, "rate"); err == nil {
					v.Follow(func(int) {})
				}
				if err := s.Close(); err != nil {
					group <- err
					return
				}
			}
			group <- nil
		}()
	}
	for range cap(group) {
		require.NoError(t, <-group)
	}
}

func TestRollback_RestoresHistory(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	var revs []int64
	for _, v := range []int{1, 2, 3} {
		rev, err := config.Set(t.Context(), s, "rate", v)
		require.NoError(t, err)
		revs = append(revs, rev)
	}
	var seen []string
	for e, err := range s.History(t.Context(), "rate") {
		require.NoError(t, err)
		seen = append(seen, string(e.Value))
		assert.Equal(t, revs[len(revs)-len(seen)], e.ModRevision)
	}
	assert.Equal(t, []string{"3", "2", "1"}, seen)
	for _, err := range s.History(t.Context(), "rate") {
		require.NoError(t, err)
		break
	}

	rev, err := s.Rollback(t.Context(), "rate", revs[0])
	require.NoError(t, err)
	assert.Greater(t, rev, revs[2])
	assert.Equal(t, 1, config.GetOr(s, "rate", 0))
	again, err := s.Rollback(t.Context(), "rate", rev)
	require.NoError(t, err)
	assert.Equal(t, rev, again, "what it stands at is not written again")

	gone, err := s.Delete(t.Context(), "rate")
	require.NoError(t, err)
	assert.Equal(t, 9, config.GetOr(s, "rate", 9))
	_, err = s.Rollback(t.Context(), "rate", gone)
	require.ErrorIs(t, err, kv.ErrNotFound)
	_, err = s.Rollback(t.Context(), "rate", gone-1)
	require.NoError(t, err)
	assert.Equal(t, 1, config.GetOr(s, "rate", 9), "a deleted key is brought back")
	for _, err := range s.History(t.Context(), "none") {
		require.ErrorIs(t, err, kv.ErrNotFound)
		require.EqualError(t, err, `config: history "none": key not found`)
	}
}

func TestRollback_ReturnsErrConflictIfKeyChanges(t *testing.T) {
	t.Parallel()
	raced := etcdtest.Client(t)
	racing := &fakeKV{KV: raced.KV}
	raced.KV = racing
	prefix := etcdtest.Prefix(t)
	q := parttest.New(t, raced, prefix)
	s := open(t, q)
	first, err := config.Set(t.Context(), s, "rate", 1)
	require.NoError(t, err)
	_, err = config.Set(t.Context(), s, "rate", 2)
	require.NoError(t, err)
	direct := etcdtest.Must(kv.New(etcdtest.Client(t), kv.WithNamespace(prefix)))
	racing.before = func(ctx context.Context) {
		_, err := direct.Put(ctx, "conf/rate", []byte("3"))
		assert.NoError(t, err)
	}
	_, err = s.Rollback(t.Context(), "rate", first)
	require.ErrorIs(t, err, kv.ErrConflict)
	require.Eventually(t, func() bool { return config.GetOr(s, "rate", 0) == 3 }, parttest.Timeout, time.Millisecond)
}

func TestHistory_EndsWithErrCompacted(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	p := parttest.New(t, srv.Client(t), "app")
	s := open(t, p)
	put(t, p, "rate", "1")
	put(t, p, "rate", "2")
	srv.Compact(put(t, p, "rate", "3"))
	var seen []string
	var end error
	for e, err := range s.History(t.Context(), "rate") {
		if end = err; err == nil {
			seen = append(seen, string(e.Value))
		}
	}
	assert.Equal(t, []string{"3"}, seen)
	require.ErrorIs(t, end, kv.ErrCompacted)
	_, err := s.Rollback(t.Context(), "rate", 2)
	require.ErrorIs(t, err, kv.ErrCompacted)
}

func TestSource_IgnoresInvalidNames(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	for _, key := range []string{"a\x00", "b\xff", "c//d", "e/", "/f"} {
		put(t, p, key, "1")
	}
	put(t, p, "good", "1")
	s := open(t, p)
	assert.Equal(t, []string{"good"}, slices.Clone(s.Keys()))
	assert.EqualValues(t, 5, s.Stats().Ignored)
}

func TestSource_OfNamespaceHidesReservedKeys(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s, err := config.Open(t.Context(), p, "")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	// WithOnce writes a key of the library's own.
	_, err = config.Set(t.Context(), s, "rate", 1, kv.WithOnce())
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"rate": "1"}, contents(s))
	_, err = config.Set(t.Context(), s, ".etcdkit/op/x", 1)
	require.ErrorIs(t, err, config.ErrInvalid)
	type whole struct{ Rate int }
	assert.Equal(t, whole{1}, bindDir(t, s, "", config.WithDefault(whole{})).Load())
}
