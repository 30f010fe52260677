package integration_test

import (
	"crypto/tls"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// serveTLS11 accepts connections of TLS 1.1 and before, and returns its endpoint.
func serveTLS11(t *testing.T, pair etcdtest.KeyPair) string {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	require.NoError(t, err)
	settings := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	l, err := tls.Listen("tcp", "127.0.0.1:0", settings)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1)) // fails: no client speaks that version
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return "https://localhost:" + port
}

func TestTLSMisuse_ErrorsAreThoseOfTheDocs(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(securityDoc)
	require.NoError(t, err)
	documented := map[string]string{}
	for _, cells := range tableOf(t, string(doc), "| mistake | what the error says |") {
		documented[cells[0]] = strings.Trim(cells[1], "`")
	}

	pki := etcdtest.Certs(t)
	serve := func(settings etcdtest.TLS) string { return etcdtest.Start(t, etcdtest.WithTLS(settings)).Endpoint() }
	good, mutual := serve(pki.TLS(pki.Server)), serve(pki.MutualTLS(pki.Server))
	expired := serve(etcdtest.TLS{Server: pki.Expired, Client: pki.ClientConfig(etcdtest.KeyPair{})})
	plain := strings.Replace(etcdtest.Endpoints()[0], "http://", "", 1)
	notPEM := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(notPEM, []byte("no certificate"), 0o600))
	ca := etcdkit.TLSConfig{CAFile: pki.CAFile}
	to := func(ep string, files etcdkit.TLSConfig) etcdkit.Config {
		return etcdkit.Config{Endpoints: []string{ep}, TLS: files}
	}
	remote := to("http://10.0.0.1:2379", etcdkit.TLSConfig{})
	remote.Username, remote.Password = "app", etcdkit.NewSecret(rolesPassword)
	mixed := to(good, ca)
	mixed.Endpoints = append(mixed.Endpoints, "http://"+plain)
	old := etcdkit.WithTLS(&tls.Config{MinVersion: tls.VersionTLS11})
	type misuse struct {
		cfg  etcdkit.Config
		opts []etcdkit.Option
		err  error // that is matched
	}
	refused := func(cfg etcdkit.Config, o ...etcdkit.Option) misuse { return misuse{cfg, o, etcdkit.ErrInvalid} }
	failed := func(ep string, files etcdkit.TLSConfig) misuse {
		return misuse{to(ep, files), nil, etcdkit.ErrUnavailable}
	}
	cases := map[string]misuse{
		"an `http://` endpoint with TLS configured":        refused(to("http://"+plain, ca)),
		"`http://` and `https://` endpoints together":      refused(mixed),
		"a user or a token over plaintext":                 refused(remote),
		"`certFile` without `keyFile`, or the other alone": refused(to(good, etcdkit.TLSConfig{CertFile: pki.Client.CertFile})),
		"a `caFile` that does not exist":                   refused(to(good, etcdkit.TLSConfig{CAFile: notPEM + ".none"})),
		"a `caFile` without a certificate":                 refused(to(good, etcdkit.TLSConfig{CAFile: notPEM})),
		"`tls` together with `etcdkit.WithTLS`":            refused(to(good, ca), etcdkit.WithTLS(pki.ClientConfig(etcdtest.KeyPair{}))),
		"`etcdkit.WithTLS` that allows TLS 1.1":            refused(to(good, etcdkit.TLSConfig{}), old),
		"a server that offers TLS 1.1 at most":             failed(serveTLS11(t, pki.Server), ca),
		"another CA than the server's":                     failed(good, etcdkit.TLSConfig{CAFile: pki.OtherCAFile}),
		"no `caFile`, and a CA of your own":                failed(good, etcdkit.TLSConfig{}),
		"a server certificate that has expired":            failed(expired, ca),
		"a server certificate for another name":            failed(good, etcdkit.TLSConfig{CAFile: pki.CAFile, ServerName: "etcd.example"}),
		"no client certificate where one is required":      failed(mutual, ca),
		"a client certificate of another CA": failed(mutual,
			etcdkit.TLSConfig{CAFile: pki.CAFile, CertFile: pki.OtherClient.CertFile, KeyFile: pki.OtherClient.KeyFile}),
		"`https://` to a server without TLS": failed("https://"+plain, ca),
		"`http://` to a server with TLS":     failed(strings.Replace(good, "https", "http", 1), etcdkit.TLSConfig{}),
	}
	assert.ElementsMatch(t, slices.Collect(maps.Keys(cases)), slices.Collect(maps.Keys(documented)))
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := etcdkit.Open(t.Context(), tc.cfg, tc.opts...)
			if err == nil {
				require.NoError(t, c.Close())
			}
			require.ErrorIs(t, err, tc.err)
			assert.ErrorContains(t, err, documented[name])
		})
	}
}
