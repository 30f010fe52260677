package config_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestBind_EmptyAndNullDocumentsAreBadValues(t *testing.T) {
	t.Parallel()
	type limits struct{ Rate int }
	p := parttest.Shared(t)
	s := open(t, p)
	for key, texts := range map[string][]string{
		"l.yaml": {"", "# nothing\n", "---\n", "null", "~\n", "--- null\n...\n"},
		"l":      {"", "null", " null\n"},
	} {
		good := map[string]string{"l.yaml": "Rate: 5", "l": `{"Rate":5}`}[key]
		waitForRevision(t, s, put(t, p, key, good))
		loose, exact := bind[limits](t, s, key), bind(t, s, key, config.WithStrict[limits]())
		pointer := bind[*limits](t, s, key)
		codec := bind(t, s, key, config.WithCodec(map[string]kv.Codec[limits]{"l.yaml": config.YAML[limits](), "l": config.JSON[limits]()}[key]))
		for _, text := range texts {
			waitForRevision(t, s, put(t, p, key, text))
			for _, v := range []*config.Value[limits]{loose, exact, codec} {
				require.ErrorIs(t, v.Err(), kv.ErrDecode, "%q at %s", text, key)
				assert.Equal(t, 5, v.Load().Rate)
			}
			require.ErrorIs(t, pointer.Err(), kv.ErrDecode)
			waitForRevision(t, s, put(t, p, key, good))
			require.NoError(t, loose.Err())
		}
	}
}

func TestBind_StrictRefusesFieldsSetTwice(t *testing.T) {
	t.Parallel()
	type limits struct {
		Rate int
		By   map[string]int
	}
	p := parttest.Shared(t)
	put(t, p, "l", `{"Rate":5}`)
	s := open(t, p)
	exact, loose := bind(t, s, "l", config.WithStrict[limits]()), bind[limits](t, s, "l")
	dir := bindDir(t, s, "", config.WithStrict[struct {
		L limits `config:",json"`
	}]())
	for text, why := range map[string]string{
		`{"Rate":1,"Rate":2}`:              `JSON: field "Rate" is already set`,
		`{"Rate":1,"rate":3}`:              `JSON: field "rate" is already set`,
		`{"Rate":1,"By":{"a":1,"a":2}}`:    `JSON: field "a" is already set`,
		`{"Rate":1,"By":{"a":1},"None":2}`: `JSON: unknown field "None"`,
	} {
		waitForRevision(t, s, put(t, p, "l", text))
		require.ErrorContains(t, exact.Err(), why)
		require.ErrorContains(t, dir.Err(), why)
		require.NoError(t, loose.Err())
	}
	waitForRevision(t, s, put(t, p, "l", `{"rate":7,"By":{"a":1,"A":2}}`))
	require.NoError(t, exact.Err(), "the keys of a map differ by case")
	assert.Equal(t, 7, exact.Load().Rate)
	assert.Equal(t, 7, dir.Load().L.Rate)
}

// A value of 103 KB that allocated 308 MiB.
//
//nolint:paralleltest // it measures what is allocated
func TestBind_AliasesThatExpandAreBadValues(t *testing.T) {
	p := parttest.Shared(t)
	put(t, p, "l.yaml", "Rate: 5")
	s := open(t, p)
	v := bind[struct{ Rate int }](t, s, "l.yaml")
	doc := "a: &a " + strings.Repeat("x", 100_000) + "\nRate: 6\nb: [" + strings.Repeat("*a,", 1000) + "]\n"
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	waitForRevision(t, s, put(t, p, "l.yaml", doc))
	runtime.ReadMemStats(&after)
	require.ErrorContains(t, v.Err(), "its aliases expand to more than")
	assert.Equal(t, 5, v.Load().Rate)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20))
}

func TestFallbackFile_NestedMappingsAreKeysToo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f.yaml")
	require.NoError(t, os.WriteFile(path, []byte(`
http:
  port: 8080
  tls: {min: "1.2", nothing: null, "no key//": 1}
db/pool: 5
banner: {text: hello, languages: [en, de]}
flags:
  new-ui: true
  beta: {search: false}
pages:
  home: {title: a}
`), 0o600))
	p := parttest.Shared(t)
	s := open(t, p, config.WithFallbackFile(path))
	type settings struct {
		HTTP struct {
			Port int
			TLS  struct{ Min string }
		}
		DB     struct{ Pool int }
		Banner struct{ Text string } `config:",json"`
		Flags  map[string]bool       `config:"flags,dir"`
		Pages  map[string]struct {
			Title string
		} `config:"pages,dir"`
	}
	check := func(x settings) {
		assert.Equal(t, 8080, x.HTTP.Port)
		assert.Equal(t, "1.2", x.HTTP.TLS.Min)
		assert.Equal(t, 5, x.DB.Pool)
		assert.Equal(t, "hello", x.Banner.Text)
		assert.Equal(t, map[string]bool{"new-ui": true, "beta/search": false}, x.Flags)
		assert.Len(t, x.Pages, 1)
		assert.Equal(t, "a", x.Pages["home"].Title)
	}
	check(bindDir[settings](t, s, "").Load())
	_, err := config.BindDir(s, "", config.WithStrict[settings]())
	require.ErrorContains(t, err, "JSON: unknown field \"languages\"", "the document is strict")
	port, err := config.Get[int](s, "http/port")
	require.NoError(t, err)
	assert.Equal(t, 8080, port)
	assert.Equal(t, []string{"banner", "db/pool", "flags", "http", "pages"}, s.Keys(), "the keys are those that the file names")
	assert.Equal(t, 5, s.Stats().Keys)
	assert.Equal(t, config.FallbackFile, s.Provenance("http/port").Origin)
	waitForRevision(t, s, put(t, p, "http/port", "9090"))
	assert.Equal(t, 9090, config.GetOr(s, "http/port", 0), "etcd goes before the file")
	waitForRevision(t, s, del(t, p, "http/port"))
	assert.Equal(t, 8080, config.GetOr(s, "http/port", 0))
}

func TestFallbackFile_StrictDirsRefuseNestedKeysWithoutField(t *testing.T) {
	t.Parallel()
	type settings struct {
		HTTP   struct{ Port int }
		Banner struct{ Text string } `config:",json"`
	}
	for text, why := range map[string]string{
		"http: {port: 1}\nbanner: {text: a}\n": "",
		"http: {prot: 1}\n":                    `key "http/prot": bad value from the fallback file: value cannot be decoded: no field has this key`,
		"htpp: {port: 1}\n":                    `key "htpp/port": bad value from the fallback file: value cannot be decoded: no field has this key`,
		"banner: {txt: a}\n":                   `key "banner": bad value from the fallback file: value cannot be decoded: JSON: unknown field "txt"`,
		"http/port: x\n":                       `key "http/port": bad value from the fallback file: value cannot be decoded: not a whole number that fits int`,
	} {
		path := filepath.Join(t.TempDir(), "f.yaml")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		s := open(t, parttest.Shared(t), config.WithFallbackFile(path))
		_, err := config.BindDir(s, "", config.WithStrict[settings]())
		if why == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, why)
	}
	path := filepath.Join(t.TempDir(), "f.yaml")
	require.NoError(t, os.WriteFile(path, []byte("http/port: 1\nhttp: {port: 2}\n"), 0o600))
	_, err := config.Open(t.Context(), parttest.Shared(t), "conf", config.WithFallbackFile(path))
	require.ErrorIs(t, err, config.ErrInvalid)
	require.ErrorContains(t, err, `key "http/port" is set twice`)
}

func TestOpen_RemovesLeftoversOfTheStateFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{".state.json.123", ".state.json.456", ".state.json.123x", ".state.json.", ".other.json.1", "state.json.1"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("{secret"), 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, ".state.json.789"), 0o700))
	s := open(t, parttest.Shared(t), config.WithStateFile(filepath.Join(dir, "state.json")))
	require.NoError(t, s.Close())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	assert.Equal(t, []string{".other.json.1", ".state.json.", ".state.json.123x", ".state.json.789", "state.json", "state.json.1"}, names)
}
