package settings_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/examples/settings"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
)

func TestMain(m *testing.M) { testmain.Run(m) }

const file = "../etcd.yaml"

// inEffect is the configuration of a client as it says itself, defaults included.
func inEffect(t *testing.T, cfg etcdkit.Config) etcdkit.Config {
	t.Helper()
	cfg.Endpoints = etcdtest.Config(t).Endpoints
	return etcdtest.OpenConfig(t, cfg).Diagnose(t.Context()).Settings
}

func TestFile_HasTheDefaults(t *testing.T) {
	t.Parallel()
	s, err := settings.Load(file)
	require.NoError(t, err)

	assert.Equal(t, []string{"localhost:2379"}, s.Etcd.Endpoints)
	assert.Equal(t, "myapp/", s.Etcd.Namespace, "the one field that is not at its default")
	there := inEffect(t, s.Etcd)
	there.Namespace = ""
	defaults := inEffect(t, etcdkit.Config{})
	assert.Equal(t, kvRetry(t, `{"maxAttempts": 3, "baseDelay": "100ms", "maxDelay": "2s"}`).Retry, there.Retry)
	there.Retry = defaults.Retry // its zero value is filled in where it is used
	assert.Equal(t, defaults, there, "what a client without any configuration uses")

	s.Etcd = etcdkit.Config{}
	assert.Equal(t, settings.Default(), s)
}

func kvRetry(t *testing.T, text string) (c etcdkit.Config) {
	t.Helper()
	require.NoError(t, yaml.UnmarshalStrict([]byte(`{"retry": `+text+`}`), &c))
	return c
}

func TestFile_CommentsNameTheDefaults(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	for field, value := range map[string]string{
		"dialTimeout": "5s", "readTimeout": "5s", "writeTimeout": "10s", "sessionTTL": "15s", "time": "10s", "timeout": "4s",
		"maxAttempts": "3", "baseDelay": "100ms", "maxDelay": "2s", "allowInsecureCredentials": "false",
		"insecureSkipVerifyForTests": "false", "ttl": "5m", "maxEntries": "1000", "maxStaleness": "10s", "enabled": "true",
		"maxServices": "100", "level": "info", "allowBlank": "false", "healthDetails": "true", "idle": "1m", "listen": "127.0.0.1:8080", "registrationTTL": "30s", "bodyBytes": "1638400",
		"headerBytes": "16384", "headerTimeout": "5s", "request": "20s", "idleTimeout": "1m", "shutdown": "15s",
		"concurrent": "256", "pageEntries": "1000", "pageBytes": "8388608", "registrations": "1000",
	} {
		assert.Regexp(t, `(?m)^ +`+field+`: `+regexp.QuoteMeta(value)+`$`, string(data))
		assert.Regexp(t, `(?s)Default: [^\n]*`+regexp.QuoteMeta(value), string(data), field)
	}
}

// leaves are the paths of all fields below a struct, as the file spells them.
func leaves(v reflect.Value, path string, f func(path string, v reflect.Value)) {
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if at := v.Field(i); at.Kind() == reflect.Struct && at.Type() != reflect.TypeFor[etcdkit.Secret]() {
			leaves(at, path+name+".", f)
		} else {
			f(path+name, at)
		}
	}
}

var example = regexp.MustCompile(`(?m)^( +)# ([a-z][A-Za-z]*:.*)$`)

func TestFile_NamesEveryField(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	all := example.ReplaceAll(data, []byte("$1$2")) // with the examples as well
	var s settings.Settings
	require.NoError(t, yaml.UnmarshalStrict(all, &s), "the examples are fields, and of the right type")
	var said any
	require.NoError(t, yaml.Unmarshal(all, &said))
	leaves(reflect.ValueOf(s), "", func(path string, _ reflect.Value) {
		at := said
		for name := range strings.SplitSeq(path, ".") {
			section, ok := at.(map[string]any)
			require.True(t, ok, path)
			require.Contains(t, slices.Collect(maps.Keys(section)), name, path)
			at = section[name]
		}
	})
}

func TestParse_ReadsEveryField(t *testing.T) {
	t.Parallel()
	var want settings.Settings
	n := 10
	change := func(_ string, v reflect.Value) {
		n++
		switch v.Kind() {
		case reflect.Struct: // a secret
			v.Set(reflect.ValueOf(etcdkit.NewSecret(fmt.Sprintf("text-%d", n))))
		case reflect.String:
			v.SetString(fmt.Sprintf("text-%d", n))
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Slice:
			v.Set(reflect.ValueOf([]string{"one", "two"}))
		case reflect.Int, reflect.Int64:
			v.SetInt(int64(n) * int64(time.Second))
		default:
			require.Fail(t, "a kind of field that is not known here", v.Kind())
		}
	}
	leaves(reflect.ValueOf(&want).Elem(), "", change)
	// The defaults of these are true.
	want.Watch.Enabled, want.Cache.Enabled, want.Gateway.HealthDetails = false, false, false
	text, err := yaml.Marshal(want)
	require.NoError(t, err)
	plain := strings.NewReplacer( // secrets are not written out
		"password: '[redacted]'", `password: "`+want.Etcd.Password.Reveal()+`"`,
		"token: '[redacted]'", `token: "`+want.Etcd.Token.Reveal()+`"`)
	got, err := settings.Parse([]byte(plain.Replace(string(text))))
	require.NoError(t, err)
	assert.Equal(t, want, got)
}

func TestParse_MissingSettingIsTheDefault(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "# nothing\n", "cache: {}\n", "etcd:\n"} {
		s, err := settings.Parse([]byte(text))
		require.NoError(t, err, text)
		assert.Equal(t, settings.Default(), s, text)
	}
	s, err := settings.Parse([]byte("cache: {ttl: 1s}"))
	require.NoError(t, err)
	want := settings.Default()
	want.Cache.TTL = etcdkit.Duration(time.Second)
	assert.Equal(t, want, s)
}

func TestParse_RefusesInvalidFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, says string }{
		"an unknown section":              {"etdc: {}", `unknown field "etdc"`},
		"an unknown field":                {"etcd: {endpoint: [a]}", `unknown field "endpoint"`},
		"an unknown field further below":  {"etcd: {retry: {attempts: 1}}", `unknown field "attempts"`},
		"a field in other capitals":       {"cache: {TTL: 1s}", `unknown field "TTL"`},
		"a field twice, once in capitals": {"cache: {ttl: 1s, TTL: 2s}", `unknown field "TTL"`},
		"a section in other capitals":     {"Etcd: {}", `unknown field "Etcd"`},
		"a field twice further below":     {"etcd: {tls: {caFile: a, cafile: b}}", `unknown field "cafile"`},
		"a field that comes twice":        {"cache: {ttl: 1s, ttl: 2s}", "already set"},
		"a duration without a unit":       {"cache: {ttl: 5}", "5s"},
		"a number that is a password":     {"etcd: {password: 123}", "a secret is a string"},
		"a second document":               {"etcd: {}\n---\netcd: {}", "something follows"},
		"no YAML":                         {"etcd: [", "YAML: line 1"},
		"a bound that bounds nothing":     {"cache: {maxEntries: 0}", "cache.maxEntries must be positive"},
		"a cache that is never stale":     {"cache: {maxStaleness: 1s}", "at least 2s"},
		"a negative limit":                {"gateway: {limits: {bodyBytes: -1}}", "gateway.limits.bodyBytes must be positive"},
		"an unknown log level":            {"log: {level: loud}", "log.level"},
		"a TTL of half a second":          {"gateway: {registrationTTL: 500ms}", "whole seconds"},
		"no address":                      {`gateway: {listen: ""}`, "gateway.listen"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := settings.Parse([]byte(c.text))
			assert.ErrorContains(t, err, c.says)
		})
	}
	_, err := settings.Load(filepath.Join(t.TempDir(), "none.yaml"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestParse_ErrorsDoNotQuotePasswords(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"etcd:\n  username: u\n  password: *hunter2\n",
		"etcd:\n  username: u\n  password: !hunter2\n",
		"etcd:\n  username: u\n  password: !x hunter2\n",
		"etcd:\n  username: u\n  password: &hunter2\n",
		"etcd:\n  username: u\n  password: !!int hunter2\n",
		"etcd:\n  username: u\n  password: hunter2\n  hunter3\n",
		"etcd:\n  username: u\n  password: hunter2: x\n",
		"etcd:\n  username: u\n  password: [hunter2]\n",
		"etcd:\n  username: u\n  password: {hunter2: 1}\n",
		"etcd:\n  username: u\n  password: @hunter2\n",
		"etcd:\n  password: \"hunter2\\2\"\n",
		"etcd: hunter2\n",
		"etcd:\n  dialTimeout: hunter2\n",
		"etcd:\n  retry: {baseDelay: hunter2}\n",
		"cache: {ttl: hunter2}\n",
		"gateway: {limits: {concurrent: hunter2}}\n",
	} {
		_, err := settings.Parse([]byte(text))
		require.Error(t, err, text)
		assert.NotContains(t, err.Error(), "hunter2", text)
		assert.NotContains(t, err.Error(), "hunter3", text)
	}
	s, err := settings.Parse([]byte("# password: *hunter2\netcd: {username: u, password: \"!hunter2\"} # token: &x\n"))
	require.NoError(t, err, "comments and quoted text are no tags")
	assert.Equal(t, "u", s.Etcd.Username)
}
