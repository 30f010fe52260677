package etcdkit_test

import (
	"context"
	"crypto/tls"
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

// opened returns a client of OpenLazy. It is closed at the end of the test.
func opened(t *testing.T, cfg etcdkit.Config, opts ...etcdkit.Option) *etcdkit.Client {
	t.Helper()
	c, err := etcdkit.OpenLazy(cfg, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}

// refused returns the error of an invalid configuration, which Open and OpenLazy share.
func refused(t *testing.T, cfg etcdkit.Config, opts ...etcdkit.Option) error {
	t.Helper()
	_, lazy := etcdkit.OpenLazy(cfg, opts...)
	require.ErrorIs(t, lazy, etcdkit.ErrInvalid)
	_, err := etcdkit.Open(t.Context(), cfg, opts...)
	require.ErrorIs(t, err, etcdkit.ErrInvalid)
	assert.True(t, etcdkit.SafeToRetry(err), "nothing was sent")
	assert.Equal(t, strings.TrimPrefix(lazy.Error(), "etcdkit: open lazy: "), strings.TrimPrefix(err.Error(), "etcdkit: open: "))
	return err
}

func TestOpen_RejectsInvalidEndpoints(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, endpoint, complaint string }{
		{"nothing", "", `endpoint "" is empty`},
		{"a scheme without a host", "http://", "has no host"},
		{"a port without a host", ":2379", "has no host"},
		{"a space in the host", "foo bar:1", "illegal characters"},
		{"a port beyond the last one", "127.0.0.1:99999", "has no port between 1 and 65535"},
		{"port zero", "127.0.0.1:0", "has no port between 1 and 65535"},
		{"a port by name", "127.0.0.1:http", "has no port between 1 and 65535"},
		{"a colon without a port", "etcd:", "is not host:port"},
		{"another scheme", "ftp://etcd:1", "has a scheme other than http, https, unix or unixs"},
		{"a path", "http://etcd:1/v3", "has a path, query or fragment"},
		{"a query", "http://etcd:1?token=" + planted, "has a path, query or fragment"},
		{"a fragment", "etcd:1#" + planted, "has a path, query or fragment"},
		{"a user", "http://root:" + planted + "@etcd:1", "contains a user"},
		{"a user without a scheme", "root:" + planted + "@etcd:1", "contains a user"},
		{"a user with a slash in the password", "http://root:/" + planted + "@etcd:1", "contains a user"},
		{"IPv6 without brackets", "::1", "needs brackets"},
		{"IPv6 with half of its brackets", "[::1:2379", "is not host:port"},
		{"brackets around a name", "[etcd]:2379", "something other than an IPv6 address"},
		{"an IPv4 address with a number too large", "127.0.0.256:1", "malformed IP address"},
		{"a NUL byte", "etcd\x00:1", "control character"},
		{"a socket without a path", "unix://", "has no socket path"},
		{"an IPv6 zone", "http://[fe80::1%lo]:1", "IPv6 zone"},
		{"letters beyond ASCII", "étcd:1", "illegal characters"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := refused(t, etcdkit.Config{Endpoints: []string{"127.0.0.1:2379", tt.endpoint}})
			require.ErrorContains(t, err, tt.complaint)
			assertHides(t, err.Error())
		})
	}
}

func TestOpen_RejectsEmptyEndpoints(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, refused(t, etcdkit.Config{Endpoints: []string{}}), "the list of endpoints is empty")
}

func TestConfig_AcceptsEndpointFormats(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   []string
		want []string
	}{
		{"none is the local default", nil, []string{"localhost:2379"}},
		{"a missing port is the default one", []string{"127.0.0.1"}, []string{"127.0.0.1:2379"}},
		{"with a scheme too", []string{"http://127.0.0.1/"}, []string{"http://127.0.0.1:2379"}},
		{"IPv6", []string{"[::1]:1", "[::1]"}, []string{"[::1]:1", "[::1]:2379"}},
		{"sockets", []string{"unix:///run/etcd.sock", "unixs:etcd.sock"}, []string{"unix:///run/etcd.sock", "unixs:etcd.sock"}},
		{"a scheme in capitals", []string{"HTTPS://localhost:1"}, []string{"https://localhost:1"}},
		{"the same twice counts once", []string{"localhost", "localhost:2379"}, []string{"localhost:2379"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, opened(t, etcdkit.Config{Endpoints: tt.in}).Raw().Endpoints())
		})
	}
}

func TestOpen_RejectsConflictingSettings(t *testing.T) {
	t.Parallel()
	bare := func(string) (string, string, error) { return "u", "p", nil }
	ask := etcdkit.WithCredentials(func(context.Context) (string, string, error) { return bare("") })
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte("p"), 0o600))
	local := []string{"127.0.0.1:2379"}
	for _, tt := range []struct {
		name      string
		cfg       etcdkit.Config
		opts      []etcdkit.Option
		complaint string
	}{
		{"http beside https", etcdkit.Config{Endpoints: []string{"http://a:1", "https://b:1"}}, nil, "different schemes"},
		{"http with TLS files", etcdkit.Config{Endpoints: []string{"http://a:1"}, TLS: etcdkit.TLSConfig{ServerName: "x"}}, nil, "has the scheme http, but TLS is configured"},
		{"http with TLS settings", etcdkit.Config{Endpoints: []string{"http://a:1"}}, []etcdkit.Option{etcdkit.WithTLS(&tls.Config{MinVersion: tls.VersionTLS13})}, "has the scheme http, but TLS is configured"},
		{"a user without a password", etcdkit.Config{Username: "u"}, nil, "username without password"},
		{"a password without a user", etcdkit.Config{Password: etcdkit.NewSecret(planted)}, nil, "password without username"},
		{"a password file without a user", etcdkit.Config{PasswordFile: file}, nil, "password without username"},
		{"two passwords", etcdkit.Config{Username: "u", Password: etcdkit.NewSecret(planted), PasswordFile: file}, nil, "both password and passwordFile"},
		{"a user and a token", etcdkit.Config{Username: "u", Password: etcdkit.NewSecret(planted), Token: etcdkit.NewSecret(planted)}, nil, "both a token and a user"},
		{"a user and somebody to ask", etcdkit.Config{Username: "u", Password: etcdkit.NewSecret(planted)}, []etcdkit.Option{ask}, "both WithCredentials and"},
		{"a token and somebody to ask", etcdkit.Config{Token: etcdkit.NewSecret(planted)}, []etcdkit.Option{ask}, "both WithCredentials and"},
		{"a password file that is not there", etcdkit.Config{Username: "u", PasswordFile: file + "x"}, nil, "no such file"},
		{"a password in clear text", etcdkit.Config{Endpoints: []string{"http://10.0.0.1:1"}, Username: "u", Password: etcdkit.NewSecret(planted)}, nil, "in clear text"},
		{"a token in clear text", etcdkit.Config{Endpoints: []string{"etcd:1"}, Token: etcdkit.NewSecret(planted)}, nil, "in clear text"},
		{"asked-for credentials in clear text", etcdkit.Config{Endpoints: []string{"etcd:1"}}, []etcdkit.Option{ask}, "in clear text"},
		{"keepalive faster than gRPC allows", etcdkit.Config{KeepAlive: etcdkit.KeepAlive{Time: etcdkit.Duration(time.Second)}}, nil, "keepAlive.time 1s is below"},
		{"a negative keepalive timeout", etcdkit.Config{KeepAlive: etcdkit.KeepAlive{Timeout: -1}}, nil, "keepAlive.timeout -1ns is negative"},
		{"a negative dial timeout", etcdkit.Config{DialTimeout: -1}, nil, "dialTimeout -1ns is negative"},
		{"a negative read timeout", etcdkit.Config{ReadTimeout: -1}, nil, "readTimeout -1ns is negative"},
		{"a negative write timeout", etcdkit.Config{WriteTimeout: -1}, nil, "writeTimeout -1ns is negative"},
		{"a negative TTL", etcdkit.Config{SessionTTL: etcdkit.Duration(-time.Second)}, nil, "sessionTTL -1s is not"},
		{"a TTL below a second", etcdkit.Config{SessionTTL: etcdkit.Duration(time.Millisecond)}, nil, "sessionTTL 1ms is not"},
		{"a TTL of broken seconds", etcdkit.Config{SessionTTL: etcdkit.Duration(1500 * time.Millisecond)}, nil, "sessionTTL 1.5s is not"},
		{"a negative number of attempts", etcdkit.Config{Retry: kv.RetryPolicy{MaxAttempts: -1}}, nil, "-1 attempts"},
		{"a namespace of slashes", etcdkit.Config{Namespace: "//"}, nil, "has no name"},
		{"an option's namespace with a hole", etcdkit.Config{Namespace: "ok"}, []etcdkit.Option{etcdkit.WithNamespace("a//b")}, "empty segment"},
		{"a certificate without its key", etcdkit.Config{Endpoints: local, TLS: etcdkit.TLSConfig{CertFile: file}}, nil, "certFile without keyFile"},
		{"a key without its certificate", etcdkit.Config{Endpoints: local, TLS: etcdkit.TLSConfig{KeyFile: file}}, nil, "keyFile without certFile"},
		{"a file without a certificate", etcdkit.Config{Endpoints: local, TLS: etcdkit.TLSConfig{CertFile: file, KeyFile: file}}, nil, "client certificate"},
		{"CA certificates that are not there", etcdkit.Config{Endpoints: local, TLS: etcdkit.TLSConfig{CAFile: file + "x"}}, nil, "no such file"},
		{"a file without CA certificates", etcdkit.Config{Endpoints: local, TLS: etcdkit.TLSConfig{CAFile: file}}, nil, "contains no certificate"},
		{"TLS twice", etcdkit.Config{Endpoints: local, TLS: etcdkit.TLSConfig{ServerName: "x"}}, []etcdkit.Option{etcdkit.WithTLS(&tls.Config{MinVersion: tls.VersionTLS12})}, "both WithTLS and tls files"},
		{"TLS before 1.2", etcdkit.Config{Endpoints: local}, []etcdkit.Option{etcdkit.WithTLS(&tls.Config{MinVersion: tls.VersionTLS10})}, "the minimum version TLS 1.0"},
		{"endpoints twice", etcdkit.Config{Endpoints: local, DiscoverySRV: "example.org"}, nil, "both endpoints and discoverySRV"},
		{"a nil option", etcdkit.Config{}, []etcdkit.Option{nil}, "option 1 is nil"},
		{"a nil logger", etcdkit.Config{}, []etcdkit.Option{etcdkit.WithLogger(nil)}, "WithLogger: nil"},
		{"nil TLS settings", etcdkit.Config{}, []etcdkit.Option{etcdkit.WithTLS(nil)}, "WithTLS: nil"},
		{"nobody to ask", etcdkit.Config{}, []etcdkit.Option{etcdkit.WithCredentials(nil)}, "WithCredentials: nil"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := refused(t, tt.cfg, tt.opts...)
			require.ErrorContains(t, err, tt.complaint)
			assertHides(t, err.Error())
		})
	}
}

func TestOpen_ReportsAllValidationErrors(t *testing.T) {
	t.Parallel()
	err := refused(t, etcdkit.Config{
		Endpoints: []string{"ftp://x", "http://u@y"}, Username: "u", DialTimeout: -1, Namespace: "/",
		Retry: kv.RetryPolicy{MaxAttempts: -1},
	}, etcdkit.WithLogger(nil))
	for _, part := range []string{"ftp://x", "contains a user", "username without", "dialTimeout", "has no name", "-1 attempts", "WithLogger"} {
		require.ErrorContains(t, err, part)
	}
}

func TestConfig_AllowsLocalOrPermittedCredentials(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		cfg  etcdkit.Config
	}{
		{"loopback", etcdkit.Config{Endpoints: []string{"127.0.0.1:1", "http://[::1]:1", "LOCALHOST:1"}}},
		{"a socket", etcdkit.Config{Endpoints: []string{"unix:///run/etcd.sock"}}},
		{"https", etcdkit.Config{Endpoints: []string{"https://10.0.0.1:1"}}},
		{"TLS by configuration", etcdkit.Config{Endpoints: []string{"10.0.0.1:1"}, TLS: etcdkit.TLSConfig{ServerName: "etcd"}}},
		{"permission", etcdkit.Config{Endpoints: []string{"10.0.0.1:1"}, AllowInsecureCredentials: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.cfg.Username, tt.cfg.Password = "u", etcdkit.NewSecret(planted)
			opened(t, tt.cfg)
		})
	}
}
