package etcdkit_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/kv"
)

const asYAML = `
# what every service has
endpoints: [https://etcd-1:2379, "https://etcd-2:2379"]
username: orders
passwordFile: /run/secrets/etcd
password: "pl4nted-s3cret"
token: pl4nted-s3cret
tls:
  caFile: ca.pem
  certFile: cert.pem
  keyFile: key.pem
  serverName: etcd
  insecureSkipVerifyForTests: true
namespace: orders/
dialTimeout: 1s
keepAlive: {time: 20s, timeout: 5s}
readTimeout: 2s
writeTimeout: 8s
sessionTTL: 1m
retry: {maxAttempts: 5, baseDelay: 50ms, maxDelay: 1s}
allowInsecureCredentials: true
`

const asJSON = `{
	"endpoints": ["https://etcd-1:2379", "https://etcd-2:2379"],
	"username": "orders", "passwordFile": "/run/secrets/etcd", "password": "pl4nted-s3cret", "token": "pl4nted-s3cret",
	"tls": {"caFile": "ca.pem", "certFile": "cert.pem", "keyFile": "key.pem", "serverName": "etcd", "insecureSkipVerifyForTests": true},
	"namespace": "orders/", "dialTimeout": "1s", "keepAlive": {"time": "20s", "timeout": "5s"},
	"readTimeout": "2s", "writeTimeout": "8s", "sessionTTL": "1m",
	"retry": {"maxAttempts": 5, "baseDelay": "50ms", "maxDelay": "1s"}, "allowInsecureCredentials": true
}`

// seconds returns a Duration of n seconds.
func seconds(n int) etcdkit.Duration { return etcdkit.Duration(time.Duration(n) * time.Second) }

// full returns the configuration of the files above.
func full() etcdkit.Config {
	return etcdkit.Config{
		Endpoints: []string{"https://etcd-1:2379", "https://etcd-2:2379"},
		Username:  "orders", PasswordFile: "/run/secrets/etcd", Password: etcdkit.NewSecret(planted), Token: etcdkit.NewSecret(planted),
		TLS:       etcdkit.TLSConfig{CAFile: "ca.pem", CertFile: "cert.pem", KeyFile: "key.pem", ServerName: "etcd", InsecureSkipVerifyForTests: true},
		Namespace: "orders/", DialTimeout: seconds(1), KeepAlive: etcdkit.KeepAlive{Time: seconds(20), Timeout: seconds(5)},
		ReadTimeout: seconds(2), WriteTimeout: seconds(8), SessionTTL: seconds(60),
		Retry:                    kv.RetryPolicy{MaxAttempts: 5, BaseDelay: 50 * time.Millisecond, MaxDelay: time.Second},
		AllowInsecureCredentials: true,
	}
}

// bomb returns a document of 10 KB that takes gigabytes after its aliases are expanded.
func bomb() string {
	var doc strings.Builder
	doc.WriteString("username: &a0 " + strings.Repeat("x", 10_000) + "\nendpoints:\n")
	for i := range 10 {
		fmt.Fprintf(&doc, "- &a%d [%s]\n", i+1, strings.Repeat(fmt.Sprintf("*a%d,", i), 10))
	}
	return doc.String()
}

// written writes a file and returns its path.
func written(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func TestLoadConfig_ReadsYAMLAndJSON(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, file, content string
		want                etcdkit.Config
	}{
		{"YAML", "etcd.yaml", asYAML, full()},
		{"JSON", "etcd.json", asJSON, full()},
		{"JSON in a file of another name", "etcd.conf", asJSON, full()},
		{"an empty YAML file", "etcd.yml", "", etcdkit.Config{}},
		{"an empty JSON object", "etcd.JSON", "{}", etcdkit.Config{}},
		{"an empty JSON file", "etcd.json", "", etcdkit.Config{}},
		{"comments alone", "etcd.yaml", "# password: !secret\n", etcdkit.Config{}},
		{
			"what looks like a marked secret in comments and text", "etcd.yaml",
			"# password: *secret\nnamespace: 'password: !a' # token: &secret\npassword: \"!not a tag\" # password: *secret\n",
			etcdkit.Config{Namespace: "password: !a", Password: etcdkit.NewSecret("!not a tag")},
		},
		{"JSON with escapes that YAML does not know", "etcd.conf", `{"username": "\ud83d\ude00\/"}`, etcdkit.Config{Username: "😀/"}},
		{"nulls", "etcd.yaml", "endpoints:\ndialTimeout: null\n", etcdkit.Config{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := etcdkit.LoadConfig(written(t, tt.file, tt.content))
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			got, err = etcdkit.ParseConfig([]byte(tt.content))
			require.NoError(t, err)
			assert.Equal(t, tt.want, got, "ParseConfig")
		})
	}
}

func TestLoadConfig_RejectsInvalidFiles(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, file, content, complaint string }{
		{"an unknown field", "x.yaml", "endpoint: [a]", `unknown field "endpoint"`},
		{"an unknown field in JSON", "x.json", `{"endpoint": []}`, `unknown field "endpoint"`},
		{"an unknown field further in", "x.yaml", "tls: {ca: x}", `unknown field "ca"`},
		{"an unknown field of the retry policy", "x.yaml", "retry: {attempts: 1}", "attempts"},
		{"a field twice", "x.yaml", "namespace: a\nnamespace: b", "line 2: a field is already set"},
		{"a field twice in JSON", "x.json", `{"namespace": "a", "namespace": "b"}`, `field "namespace" is already set`},
		{"a field twice further in", "x.json", `{"tls": {"caFile": "a", "serverName": "b", "caFile": "c"}}`, `field "caFile" is already set`},
		{"a field twice but for its case", "x.json", `{"namespace": "a", "nameSpace": "b"}`, `unknown field "nameSpace"`},
		{"a field twice but for its case in YAML", "x.yaml", "namespace: a\nNamespace: b", `unknown field "Namespace"`},
		{"a field in other capitals", "x.yaml", "tls: {CAFile: a}", `unknown field "CAFile"`},
		{"a duration that is a secret in the wrong place", "x.yaml", "dialTimeout: " + planted, `field "dialTimeout": not a duration`},
		{"a secret in the wrong place of the retry policy", "x.yaml", "retry: {baseDelay: " + planted + "}", `field "retry"`},
		{"a secret that is given by an alias", "x.yaml", "username: &u " + planted + "\npassword: *u", `field "password": a secret is a string`},
		{"aliases that expand to too much", "x.yaml", bomb(), "its aliases expand to more than"},
		{"a second document", "x.yaml", "namespace: a\n---\nnamespace: b", "something follows"},
		{"a second document after an end", "x.yaml", "---\nnamespace: a\n...\n---\nnamespace: b", "something follows"},
		{"a second document that is broken", "x.yaml", "namespace: a\n---\npassword: [" + planted, "something follows"},
		{"something after a flow", "x.yaml", "{namespace: a} " + planted, "something follows"},
		{"a password that YAML takes for a tag", "x.yaml", "password: !" + planted, `field "password": a secret is a string`},
		{"a password of which YAML drops a tag", "x.yaml", "password: !x " + planted, `field "password": a secret is a string`},
		{"a token that YAML takes for a tag", "x.yaml", "{username: u, token: !" + planted + " }", `field "token": a secret is a string`},
		{"a password that YAML takes for an anchor", "x.yaml", "password: &" + planted, `field "password": a secret is a string`},
		{"a password that YAML takes for an alias", "x.yaml", "password: *" + planted, "an alias has no anchor"},
		{"a password that YAML takes for a comment", "x.yaml", "password: #" + planted, `field "password": a secret is a string`},
		{"a password of another type", "x.yaml", "password: !!int " + planted, "not of the type of its tag"},
		{"a password that is null", "x.json", `{"password": null}`, `field "password": a secret is a string`},
		{"a password with a colon", "x.yaml", "password: a: " + planted, "a colon is where none may be"},
		{"a password with a character that YAML keeps for itself", "x.yaml", "password: @" + planted, "needs quotes"},
		{"a field name that is a list", "x.yaml", "[" + planted + "]: x", "the name of a field is no string"},
		{"a number where a text is meant", "x.yaml", "username: u\npasswordFile: 4711", `field "passwordFile": number where string is expected`},
		{"a duration without a unit", "x.yaml", "dialTimeout: 5", `field "dialTimeout": not a duration such as "5s"`},
		{"a password that YAML takes for a number", "x.yaml", "password: 12345", "a secret is a string"},
		{"a redacted password", "x.yaml", `password: "[redacted]"`, "cannot be read back"},
		{"something after the configuration", "x.json", "{} {}", "something follows"},
		{"JSON that is broken", "x.json", `{"endpoints":`, "JSON: it ends too early"},
		{"YAML that is broken", "x.yaml", "password: [" + planted, "yaml"},
		{"a value of another kind", "x.yaml", "password: {a: " + planted + "}", "a secret is a string"},
		{"a file that is no configuration", "x.yaml", planted, "x.yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := etcdkit.LoadConfig(written(t, tt.file, tt.content))
			require.ErrorIs(t, err, etcdkit.ErrInvalid)
			require.ErrorContains(t, err, tt.complaint)
			assertHides(t, err.Error())
			assert.Zero(t, got)
			got, err = etcdkit.ParseConfig([]byte(tt.content))
			require.ErrorIs(t, err, etcdkit.ErrInvalid)
			assertHides(t, err.Error())
			assert.Zero(t, got)
		})
	}
	_, err := etcdkit.LoadConfig(filepath.Join(t.TempDir(), "absent.yaml"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestUnmarshalStrict_ReadsConfigAsSection(t *testing.T) {
	t.Parallel()
	type settings struct {
		Listen string         `json:"listen"`
		Etcd   etcdkit.Config `json:"etcd"`
	}
	got := settings{Listen: ":8080"}
	require.NoError(t, etcdkit.UnmarshalStrict([]byte("etcd: {username: u, password: "+planted+"}"), &got))
	assert.Equal(t, settings{Listen: ":8080", Etcd: etcdkit.Config{Username: "u", Password: etcdkit.NewSecret(planted)}}, got)
	for text, complaint := range map[string]string{
		"etcd: {password: *" + planted + "}":          "an alias has no anchor",
		"etcd:\n  password: !" + planted:              `field "etcd.password": a secret is a string`,
		"etcd: " + planted:                            "string where etcdkit.Config is expected",
		"etcd: {Password: " + planted + "}":           `unknown field "Password"`,
		`{"etcd": {"password": ["` + planted + `"]}}`: `field "etcd.password": a secret is a string`,
	} {
		err := etcdkit.UnmarshalStrict([]byte(text), &settings{})
		require.ErrorIs(t, err, etcdkit.ErrInvalid)
		require.ErrorContains(t, err, complaint)
		assertHides(t, err.Error())
	}
	require.ErrorIs(t, etcdkit.UnmarshalStrict(nil, settings{}), etcdkit.ErrInvalid)
	require.ErrorIs(t, etcdkit.UnmarshalStrict(nil, nil), etcdkit.ErrInvalid)
}

func TestConfig_MarshalsWithoutSecrets(t *testing.T) {
	t.Parallel()
	out, err := json.Marshal(full())
	require.NoError(t, err)
	assertHides(t, string(out))
	assert.Contains(t, string(out), `"readTimeout":"2s"`)
	empty, err := json.Marshal(etcdkit.Config{})
	require.NoError(t, err)
	assert.JSONEq(t, `{}`, string(empty), "default values are omitted")
}

func TestConfigFromEnv_ReadsAllVariables(t *testing.T) {
	t.Setenv("ETCD_DISCOVERY_SRV", "")
	for name, value := range map[string]string{
		"ETCD_ENDPOINTS": "https://etcd-1:2379, https://etcd-2:2379", "ETCD_USERNAME": "orders", "ETCD_PASSWORD": planted,
		"ETCD_PASSWORD_FILE": "/run/secrets/etcd", "ETCD_TOKEN": planted, "ETCD_NAMESPACE": "orders/", "ETCD_CACERT": "ca.pem",
		"ETCD_CERT": "cert.pem", "ETCD_KEY": "key.pem", "ETCD_SERVER_NAME": "etcd", "ETCD_DIAL_TIMEOUT": "1s",
		"ETCD_READ_TIMEOUT": "2s", "ETCD_WRITE_TIMEOUT": "8s", "ETCD_SESSION_TTL": "1m", "ETCD_KEEPALIVE_TIME": "20s",
		"ETCD_KEEPALIVE_TIMEOUT": "5s", "ETCD_ALLOW_INSECURE_CREDENTIALS": "true",
	} {
		t.Setenv(name, value)
	}
	got, err := etcdkit.ConfigFromEnv()
	require.NoError(t, err)
	want := full()
	want.Retry, want.TLS.InsecureSkipVerifyForTests = kv.RetryPolicy{}, false
	assert.Equal(t, want, got)
}

func TestConfigFromEnv_ReturnsZeroConfigIfUnset(t *testing.T) {
	for _, name := range []string{"ETCD_ENDPOINTS", "ETCD_USERNAME", "ETCD_DIAL_TIMEOUT", "ETCD_ALLOW_INSECURE_CREDENTIALS"} {
		t.Setenv(name, "")
	}
	got, err := etcdkit.ConfigFromEnv()
	require.NoError(t, err)
	assert.Equal(t, etcdkit.Config{}, got)
	t.Setenv("ETCD_DISCOVERY_SRV", "example.org")
	got, err = etcdkit.ConfigFromEnv()
	require.NoError(t, err)
	assert.Equal(t, "example.org", got.DiscoverySRV)
}

func TestConfigFromEnv_ReportsAllInvalidVariables(t *testing.T) {
	t.Setenv("ETCD_DIAL_TIMEOUT", "5")
	t.Setenv("ETCD_SESSION_TTL", "soon")
	t.Setenv("ETCD_ALLOW_INSECURE_CREDENTIALS", "maybe")
	_, err := etcdkit.ConfigFromEnv()
	require.ErrorIs(t, err, etcdkit.ErrInvalid)
	for _, part := range []string{"ETCD_DIAL_TIMEOUT", "ETCD_SESSION_TTL", "ETCD_ALLOW_INSECURE_CREDENTIALS"} {
		require.ErrorContains(t, err, part)
	}
}

func TestConfig_WithEnvOverridesFields(t *testing.T) {
	file := etcdkit.Config{
		DiscoverySRV: "example.org", Username: "orders", PasswordFile: "/run/secrets/etcd", Namespace: "orders/",
		ReadTimeout: etcdkit.Duration(time.Second), AllowInsecureCredentials: true,
	}
	for _, tt := range []struct {
		name string
		env  map[string]string
		want func(c *etcdkit.Config)
	}{
		{"which says nothing", nil, func(*etcdkit.Config) {}},
		{"which says where etcd is", map[string]string{"ETCD_ENDPOINTS": "etcd:1"}, func(c *etcdkit.Config) {
			c.DiscoverySRV, c.Endpoints = "", []string{"etcd:1"}
		}},
		{"which has another password", map[string]string{"ETCD_PASSWORD": planted}, func(c *etcdkit.Config) {
			c.PasswordFile, c.Password = "", etcdkit.NewSecret(planted)
		}},
		{"which has another user", map[string]string{"ETCD_USERNAME": "root"}, func(c *etcdkit.Config) { c.Username = "root" }},
		{"which has a token", map[string]string{"ETCD_TOKEN": planted}, func(c *etcdkit.Config) {
			c.Username, c.PasswordFile, c.Token = "", "", etcdkit.NewSecret(planted)
		}},
		{"which says other values", map[string]string{
			"ETCD_READ_TIMEOUT": "2s", "ETCD_NAMESPACE": "a/", "ETCD_ALLOW_INSECURE_CREDENTIALS": "false",
		}, func(c *etcdkit.Config) {
			c.ReadTimeout, c.Namespace, c.AllowInsecureCredentials = etcdkit.Duration(2*time.Second), "a/", false
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			got, err := file.WithEnv()
			require.NoError(t, err)
			want := file
			tt.want(&want)
			assert.Equal(t, want, got)
		})
	}
	t.Run("which has a user where the file has a token", func(t *testing.T) {
		t.Setenv("ETCD_USERNAME", "orders")
		t.Setenv("ETCD_PASSWORD", planted)
		got, err := etcdkit.Config{Token: etcdkit.NewSecret(planted), Endpoints: []string{"etcd:1"}}.WithEnv()
		require.NoError(t, err)
		assert.Equal(t, etcdkit.Config{Username: "orders", Password: etcdkit.NewSecret(planted), Endpoints: []string{"etcd:1"}}, got)
	})
	t.Run("which cannot be read", func(t *testing.T) {
		t.Setenv("ETCD_READ_TIMEOUT", "soon")
		_, err := file.WithEnv()
		require.ErrorIs(t, err, etcdkit.ErrInvalid)
		assert.ErrorContains(t, err, "ETCD_READ_TIMEOUT")
	})
}
