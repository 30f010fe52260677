package config_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

// file creates a file.
func file(tb testing.TB, name, content string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	require.NoError(tb, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// shortContext returns a context for calls of Open while etcd is down.
func shortContext(tb testing.TB) context.Context {
	tb.Helper()
	ctx, stop := context.WithTimeout(tb.Context(), 2*time.Second)
	tb.Cleanup(stop)
	return ctx
}

func TestLayers_EnvironmentThenEtcdThenFile(t *testing.T) {
	t.Setenv("SHOP_HTTP_RATE_LIMIT", "5")
	t.Setenv("SHOP_ONLY", "here")
	t.Setenv("SHOP", "is another")
	path := file(t, "conf.yaml", "http/rate-limit: 1\nbanner: {text: file}\nname: from file\nratio: 0.5\n\"on\": true\nwait: 5s\n")
	p := parttest.Shared(t)
	put(t, p, "http/rate-limit", "3")
	rev := put(t, p, "name", "from etcd")
	s := open(t, p, config.WithEnvironment("SHOP"), config.WithFallbackFile(path))
	assert.Equal(t, config.Live, s.Status().Origin)
	assert.Equal(t, map[string]string{
		"http/rate-limit": "5", "banner": `{"text":"file"}`, "name": "from etcd", "ratio": "0.5", "on": "true", "wait": "5s",
	}, contents(s))
	assert.Equal(t, config.Provenance{Key: "http/rate-limit", Origin: config.Environment, Name: "SHOP_HTTP_RATE_LIMIT"}, s.Provenance("http/rate-limit"))
	assert.Equal(t, config.Provenance{Key: "name", Origin: config.Live, Revision: rev}, s.Provenance("name"))
	assert.Equal(t, config.Provenance{Key: "wait", Origin: config.FallbackFile, Name: path}, s.Provenance("wait"))
	assert.Equal(t, "here", config.GetOr(s, "only", ""))

	type shop struct {
		Name string
		Only string
		Rate int            `config:"http/rate-limit"`
		Wait time.Duration  `default:"1s"`
		Max  int            `default:"9"`
		Map  map[string]int `config:"map,dir"`
	}
	v := bindDir[shop](t, s, "")
	assert.Equal(t, shop{Name: "from etcd", Only: "here", Rate: 5, Wait: 5 * time.Second, Max: 9}, v.Load())
	origins := map[string]config.Origin{}
	for _, from := range v.Provenance() {
		origins[from.Key] = from.Origin
	}
	assert.Equal(t, map[string]config.Origin{
		"name": config.Live, "only": config.Environment, "http/rate-limit": config.Environment, "wait": config.FallbackFile,
	}, origins)

	var seen parttest.Recorder[config.Change]
	defer s.Follow("", seen.Add)()
	put(t, p, "http/rate-limit", "4")
	rev = del(t, p, "name")
	waitForRevision(t, s, rev)
	assert.Equal(t, config.Change{Key: "name", Old: []byte("from etcd"), New: []byte("from file"), Revision: rev}, seen.Await(t, 1),
		"a change that the environment hides is not reported, and a deletion brings back what lies below")
	assert.Equal(t, "from file", v.Load().Name)

	t.Setenv("SHOP_COUNT", "many")
	other := open(t, p, config.WithEnvironment("SHOP"))
	_, err := config.Bind(other, "count", config.WithDefault(1))
	require.ErrorIs(t, err, kv.ErrDecode, "the environment does not mend itself")
	require.EqualError(t, err, `config: bind "count": bad value from the environment: value cannot be decoded: not a whole number that fits int`)
}

func TestOpen_StartsFromStateFileAndCatchesUp(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	p := parttest.New(t, srv.Client(t), "app")
	state := filepath.Join(t.TempDir(), "state.json")
	fallback := file(t, "conf.json", `{"rate": 1, "extra": "file"}`)
	withFiles := []config.Option{config.WithStateFile(state), config.WithFallbackFile(fallback)}

	put(t, p, "rate", "10")
	put(t, p, "bin", "\xff\x00")
	first := put(t, p, "empty", "")
	s, err := config.Open(t.Context(), p, "conf", withFiles...)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	st, err := os.Stat(state)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), st.Mode())
	srv.Kill()

	received, handler := recordErrors()
	s, err = config.Open(shortContext(t), p, "conf", append(withFiles, handler)...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	status := s.Status()
	assert.Equal(t, config.StateFile, status.Origin)
	assert.Equal(t, first, status.Revision)
	assert.Less(t, status.Age, parttest.Timeout)
	require.ErrorIs(t, status.Err, config.ErrUnavailable)
	require.ErrorContains(t, status.Err, srv.Endpoint(), "it says where and why")
	assert.Equal(t, map[string]string{"rate": "10", "bin": "\xff\x00", "empty": "", "extra": "file"}, contents(s))
	assert.Equal(t, state, s.Provenance("rate").Name)
	rate := bind[int](t, s, "rate")
	var seen parttest.Recorder[config.Change]
	defer s.Follow("", seen.Add)()
	_, err = config.Set(shortContext(t), s, "rate", 5)
	require.Error(t, err)

	srv.Restart()
	put(t, p, "rate", "20")
	rev := del(t, p, "empty")
	waitForRevision(t, s, rev)
	assert.Equal(t, 20, rate.Load())
	seen.Await(t, 2)
	assert.ElementsMatch(t, []config.Change{
		{Key: "rate", Old: []byte("10"), New: []byte("20"), Revision: seen.All()[0].Revision},
		{Key: "empty", Old: []byte{}, Revision: seen.All()[1].Revision},
	}, seen.All(), "what has changed since the file was written is told, and nothing else")
	require.Eventually(t, func() bool { return s.Status().Err == nil }, parttest.Timeout, time.Millisecond)
	assert.Empty(t, received.All())
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(state)
		return err == nil && strings.Contains(string(b), `"20"`)
	}, parttest.Timeout, 10*time.Millisecond, "the state file follows")
}

func TestOpen_StartsFromFallbackFileWithoutState(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	p := parttest.New(t, srv.Client(t), "app")
	srv.Kill()
	path := file(t, "conf.yaml", "rate: 1\n")
	s, err := config.Open(shortContext(t), p, "conf", config.WithFallbackFile(path), config.WithStateFile(filepath.Join(t.TempDir(), "state")))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	assert.Equal(t, config.FallbackFile, s.Status().Origin)
	assert.Equal(t, 1, bind[int](t, s, "rate").Load())

	bare, err := config.Open(shortContext(t), p, "conf", config.WithStartOnDefaults())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, bare.Close()) })
	assert.Equal(t, config.Defaults, bare.Status().Origin)
	assert.Equal(t, 7, bind(t, bare, "rate", config.WithDefault(7)).Load())

	_, err = config.Open(shortContext(t), p, "conf", config.WithStateFile(filepath.Join(t.TempDir(), "state")))
	require.ErrorIs(t, err, context.DeadlineExceeded, "without anything to start from, it is an error")
	require.ErrorIs(t, err, config.ErrUnavailable)
	require.ErrorContains(t, err, srv.Endpoint(), "it says where and why")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	_, err = config.Open(ctx, p, "conf", config.WithFallbackFile(path))
	require.ErrorIs(t, err, context.Canceled)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "rate: 1\n", string(b), "the fallback file is never written")
}

func TestOpen_ReturnsErrPermission(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "ada", Password: "pw", Grants: []etcdtest.Grant{etcdtest.Read("other/")}})
	p := parttest.New(t, srv.Client(t, etcdtest.As("ada", "pw")), "app")
	_, err := config.Open(t.Context(), p, "conf", config.WithFallbackFile(file(t, "conf.yaml", "rate: 1\n")))
	require.ErrorIs(t, err, config.ErrPermission, "a refusal is not an outage")
}

func TestStateFile_InvalidOneIsReported(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"it is cut off":                 `{"format":"etcdkit config 1","dir":"conf/","values":{"rate"`,
		"it is something else":          `{"format":"else","dir":"conf/"}`,
		"written for another directory": `{"format":"etcdkit config 1","dir":"other/"}`,
		"it holds what is no name":      `{"format":"etcdkit config 1","dir":"conf/","values":{"a//b":{"text":"1"}}}`,
		"it holds no base64":            `{"format":"etcdkit config 1","dir":"conf/","values":{"a":{"base64":"!"}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := parttest.Shared(t)
			put(t, p, "rate", "1")
			path := file(t, "state.json", content)
			received, handler := recordErrors()
			s := open(t, p, config.WithStateFile(path), handler)
			assert.ErrorContains(t, received.Await(t, 1).err, "state file")
			assert.Empty(t, received.All()[0].key)
			require.NoError(t, s.Close())
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Contains(t, string(b), `"rate"`, "it is replaced")
		})
	}
}

func TestFallbackFile_InvalidOneFailsOpen(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	for name, c := range map[string]struct{ file, content, text string }{
		"not a mapping":                       {"f.yaml", "- a\n", "not a mapping"},
		"no YAML":                             {"f.yaml", "a: [\n", "YAML: line 1: a bracket, comma or indentation is not where it belongs"},
		"a key twice":                         {"f.yaml", "a: 1\na: 2\n", "line 2: a field is already set"},
		"a JSON key twice":                    {"f.json", `{"a": 1, "a": 2}`, `field "a" is already set`},
		"a key that YAML takes for a boolean": {"f.yaml", "on: 1\n", "YAML key true is not a string"},
		"no JSON":                             {"f.json", `{"a": 1,`, "ends too early"},
		"more than one JSON":                  {"f.json", `{"a": 1} {}`, "something follows"},
		"null":                                {"f.yaml", "a:\n", "leave it out"},
		"no name":                             {"f.yaml", "a//b: 1\n", "did you mean"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Open(t.Context(), p, "conf", config.WithFallbackFile(file(t, c.file, c.content)))
			require.ErrorIs(t, err, config.ErrInvalid)
			assert.ErrorContains(t, err, c.text)
		})
	}
	for name, content := range map[string]string{"nothing": "", "a comment": "# none\n", "an empty mapping": "{}\n"} {
		t.Run(name+" is a file without keys", func(t *testing.T) {
			t.Parallel()
			assert.Empty(t, contents(open(t, p, config.WithFallbackFile(file(t, "f.yaml", content)))))
		})
	}
}

func TestStateFile_KeepsLastGoodState(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	state := filepath.Join(t.TempDir(), "state.json")
	put(t, p, "rate", "10")
	put(t, p, "db/max", "3")
	put(t, p, "free", "text")
	first, err := config.Open(t.Context(), p, "conf", config.WithStateFile(state))
	require.NoError(t, err)
	rate := bind[int](t, first, "rate")
	db := bindDir[pools](t, first, "db")
	put(t, p, "rate", "many")
	put(t, p, "db/wait", "5h")
	put(t, p, "db/max", "many")
	waitForRevision(t, first, put(t, p, "free", "other"))
	require.Error(t, rate.Err())
	want := db.Load()
	require.NoError(t, first.Close())

	for range 2 { // the second process finds it too
		s, err := config.Open(t.Context(), p, "conf", config.WithStateFile(state))
		require.NoError(t, err)
		rate := bind(t, s, "rate", config.WithDefault(1))
		assert.Equal(t, 10, rate.Load(), "a process that starts while the value is bad has the last good one")
		assert.Equal(t, config.StateFile, rate.Provenance()[0].Origin)
		require.ErrorIs(t, rate.Err(), kv.ErrDecode)
		assert.Equal(t, want, bindDir[pools](t, s, "db").Load())
		assert.Equal(t, "other", config.GetOr(s, "free", ""))
		require.NoError(t, s.Close())
	}
}

func TestStateFile_WriteErrorIsReported(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	dir := filepath.Join(t.TempDir(), "gone")
	require.NoError(t, os.Mkdir(dir, 0o700))
	received, handler := recordErrors()
	s, err := config.Open(t.Context(), p, "conf", config.WithStateFile(filepath.Join(dir, "state")), handler)
	require.NoError(t, err)
	require.NoError(t, os.Remove(dir))
	_, err = config.Set(t.Context(), s, "rate", 1)
	require.NoError(t, err)
	assert.ErrorIs(t, received.Await(t, 1).err, os.ErrNotExist)
	assert.EqualValues(t, 1, s.Stats().StateErrors)
	require.ErrorIs(t, s.Close(), os.ErrNotExist, "and it is tried again at the end")
}

func TestStateFile_ConsistentWhileBadValueIsDecoded(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	state := filepath.Join(t.TempDir(), "state.json")
	put(t, p, "rate", "10")
	s := open(t, p, config.WithStateFile(state))
	asked, release := make(chan struct{}), make(chan struct{})
	rate := bind(t, s, "rate", config.WithValidate(func(n int) error {
		if n < 0 {
			close(asked)
			<-release
			return errNotPositive
		}
		return nil
	}))
	rev := put(t, p, "rate", "-5")
	<-asked // the source has it, and the value is not known to be bad
	saved := make(chan error, 1)
	go func() { saved <- s.Save() }()
	soon := time.NewTimer(200 * time.Millisecond)
	defer soon.Stop()
	select {
	case err := <-saved: // too early: the file is looked at below
		saved <- err
	case <-soon.C:
	}
	close(release)
	require.NoError(t, <-saved)
	b, err := os.ReadFile(state)
	require.NoError(t, err)
	assert.Contains(t, string(b), `"10"`)
	assert.NotContains(t, string(b), `"-5"`)
	waitForRevision(t, s, rev)
	require.ErrorIs(t, rate.Err(), config.ErrValidation)
}
