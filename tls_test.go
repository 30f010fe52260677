package etcdkit_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func TestTLSConfig_ReloadsClientCertificate(t *testing.T) {
	t.Parallel()
	pki := etcdtest.Certs(t)
	s := etcdtest.Start(t, etcdtest.WithTLS(pki.MutualTLS(pki.Server)))
	// etcd takes the user from the common name of the certificate, so the permissions show which
	// certificate was used.
	etcdtest.EnableAuth(t, s,
		etcdtest.User{Name: "old", Password: "unused", Grants: []etcdtest.Grant{etcdtest.ReadWrite("old/")}},
		etcdtest.User{Name: "new", Password: "unused", Grants: []etcdtest.Grant{etcdtest.ReadWrite("new/")}},
	)
	proxy := s.Proxy(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	copyFile := func(from, to string) {
		data, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to, data, 0o600))
	}
	was, will := pki.IssueClient("old"), pki.IssueClient("new")
	copyFile(was.CertFile, cert)
	copyFile(was.KeyFile, key)

	log := &etcdtest.Log{}
	c := open(t, etcdkit.Config{
		Endpoints: proxy.Endpoints(), TLS: etcdkit.TLSConfig{CAFile: pki.CAFile, CertFile: cert, KeyFile: key},
	}, etcdkit.WithLogger(log.Logger()))
	_, err := c.KV().Put(t.Context(), "old/k", nil)
	require.NoError(t, err)

	copyFile(will.CertFile, cert) // half of the files
	proxy.Cut()
	_, err = c.KV().Exists(t.Context(), "old/k")
	require.NoError(t, err, "the last good pair stays in use")
	assert.Contains(t, log.String(), "TLS file cannot be read")

	copyFile(will.KeyFile, key)
	_, err = c.KV().Exists(t.Context(), "old/k")
	require.NoError(t, err, "existing connections stay open")
	proxy.Cut()
	_, err = c.KV().Exists(t.Context(), "new/k")
	require.NoError(t, err)
	_, err = c.KV().Exists(t.Context(), "old/k")
	require.ErrorIs(t, err, etcdkit.ErrPermission)

	require.NoError(t, os.Remove(cert))
	proxy.Cut()
	_, err = c.KV().Exists(t.Context(), "new/k")
	require.NoError(t, err, "the last good pair stays in use after the files were removed")
}

// Deployment tools and archives set the same modification time for all files.
func TestTLSConfig_ReloadsCertificateOfEqualSizeAndTime(t *testing.T) {
	t.Parallel()
	pki := etcdtest.Certs(t)
	s := etcdtest.Start(t, etcdtest.WithTLS(pki.MutualTLS(pki.Server)))
	etcdtest.EnableAuth(t, s,
		etcdtest.User{Name: "aaa", Password: "unused", Grants: []etcdtest.Grant{etcdtest.ReadWrite("aaa/")}},
		etcdtest.User{Name: "bbb", Password: "unused", Grants: []etcdtest.Grant{etcdtest.ReadWrite("bbb/")}},
	)
	proxy := s.Proxy(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	install := func(pair etcdtest.KeyPair) (sizes [2]int) {
		for i, file := range [][2]string{{pair.CertFile, cert}, {pair.KeyFile, key}} {
			data, err := os.ReadFile(file[0])
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(file[1], data, 0o600))
			require.NoError(t, os.Chtimes(file[1], time.Unix(1, 0), time.Unix(1, 0)))
			sizes[i] = len(data)
		}
		return sizes
	}
	old := install(pki.IssueClient("aaa"))
	c := open(t, etcdkit.Config{Endpoints: proxy.Endpoints(), TLS: etcdkit.TLSConfig{CAFile: pki.CAFile, CertFile: cert, KeyFile: key}})
	for install(pki.IssueClient("bbb")) != old { // sizes differ by a byte or two
		require.NoError(t, t.Context().Err())
	}
	proxy.Cut()
	_, err := c.KV().Exists(t.Context(), "bbb/k")
	require.NoError(t, err)
}

func TestTLSConfig_ReloadsTheCAFile(t *testing.T) {
	t.Parallel()
	pki := etcdtest.Certs(t)
	s := etcdtest.Start(t, etcdtest.WithTLS(pki.TLS(pki.Server)))
	proxy := s.Proxy(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	install := func(from string) {
		data, err := os.ReadFile(from)
		require.NoError(t, err)
		next := ca + ".next" // renamed, so that nobody reads half of it
		require.NoError(t, os.WriteFile(next, data, 0o600))
		require.NoError(t, os.Rename(next, ca))
	}
	install(pki.OtherCAFile)
	log := &etcdtest.Log{}
	cfg := etcdkit.Config{Endpoints: proxy.Endpoints(), TLS: etcdkit.TLSConfig{CAFile: ca}}
	_, err := etcdkit.Open(t.Context(), cfg)
	require.ErrorContains(t, err, "certificate signed by unknown authority")
	c := opened(t, cfg, etcdkit.WithLogger(log.Logger()))
	_, err = c.Members(t.Context())
	require.ErrorContains(t, err, "certificate signed by unknown authority")

	install(pki.CAFile)
	require.Eventually(t, func() bool {
		_, err := c.KV().Exists(t.Context(), "k")
		return err == nil
	}, 30*time.Second, 10*time.Millisecond)
	_, err = c.Members(t.Context())
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(ca, []byte("no certificate"), 0o600))
	proxy.Cut()
	_, err = c.KV().Exists(t.Context(), "k")
	require.NoError(t, err, "the last good file stays in use")
	assert.Equal(t, 1, log.Count("TLS file cannot be read"))

	install(pki.OtherCAFile)
	proxy.Cut()
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	_, err = c.KV().Exists(ctx, "k")
	require.Error(t, err, "the server is no longer trusted")
	assert.Equal(t, 1, log.Count("TLS file can be read again"))
}

func TestWithTLS_ClonesSettings(t *testing.T) {
	t.Parallel()
	pki := etcdtest.Certs(t)
	s := etcdtest.Start(t, etcdtest.WithTLS(pki.MutualTLS(pki.Server)))
	given := pki.ClientConfig(pki.Client)
	given.MinVersion = 0
	seen := make(chan string, 100)
	given.VerifyConnection = func(cs tls.ConnectionState) error {
		seen <- cs.ServerName
		return nil
	}
	given.ServerName = "localhost"
	c := open(t, etcdkit.Config{Endpoints: s.Endpoints()}, etcdkit.WithTLS(given))
	_, err := c.KV().Exists(t.Context(), "k")
	require.NoError(t, err)
	assert.Equal(t, "localhost", <-seen, "the name of the settings, not that of the endpoint")
	assert.Zero(t, given.MinVersion)
}

func TestOpen_EncryptsPassword(t *testing.T) {
	t.Parallel()
	pki := etcdtest.Certs(t)
	s := etcdtest.Start(t, etcdtest.WithTLS(pki.TLS(pki.Server)))
	etcdtest.EnableAuth(t, s, etcdtest.User{Name: "app", Password: planted, Grants: []etcdtest.Grant{etcdtest.ReadWrite("k")}})
	proxy := s.Proxy(t)
	up := &etcdtest.Log{}
	proxy.OnUp(func(b []byte) { _, _ = up.Write(bytes.Clone(b)) })
	c := open(t, etcdkit.Config{Endpoints: proxy.Endpoints(), TLS: etcdkit.TLSConfig{CAFile: pki.CAFile}, Username: "app", Password: etcdkit.NewSecret(planted)})
	_, err := c.KV().Put(t.Context(), "k", []byte(planted))
	require.NoError(t, err)
	assert.NotEmpty(t, up.String())
	assertHides(t, up.String())
}
