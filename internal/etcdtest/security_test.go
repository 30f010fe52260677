//go:build unix

package etcdtest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// handshake connects by TLS and reads until the server has had its say about the client's
// certificate.
func handshake(t *testing.T, srv *etcdtest.Server, cfg *tls.Config) error {
	t.Helper()
	u, err := url.Parse(srv.Endpoint())
	require.NoError(t, err)
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h2"}
	c, err := tls.Dial("tcp", u.Host, cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = c.Read(make([]byte, 1)) // an HTTP/2 server speaks first
	return err
}

func TestCerts_ServerPresentsItsCertificate(t *testing.T) {
	t.Parallel()
	pki := etcdtest.Certs(t)
	tests := map[string]struct {
		pair  etcdtest.KeyPair
		check func(*testing.T, error)
	}{
		"one that is good": {pki.Server, func(t *testing.T, err error) { assert.NoError(t, err) }},
		"one that has expired": {pki.Expired, func(t *testing.T, err error) {
			invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
			require.True(t, ok, "%v", err)
			assert.Equal(t, x509.Expired, invalid.Reason)
		}},
		"one for another host": {pki.WrongName, func(t *testing.T, err error) {
			_, ok := errors.AsType[x509.HostnameError](err)
			assert.True(t, ok, "%v", err)
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := etcdtest.Start(t, etcdtest.WithTLS(pki.TLS(tc.pair)))
			tc.check(t, handshake(t, srv, pki.ClientConfig(etcdtest.KeyPair{})))
		})
	}
}

func TestCerts_MutualTLS(t *testing.T) {
	t.Parallel()
	pki := etcdtest.Certs(t)
	srv := etcdtest.Start(t, etcdtest.WithTLS(pki.MutualTLS(pki.Server)))

	put(t, srv.Client(t), "key")
	require.NoError(t, handshake(t, srv, pki.ClientConfig(pki.IssueClient("another"))))
	require.ErrorContains(t, handshake(t, srv, pki.ClientConfig(etcdtest.KeyPair{})), "certificate required")
	require.ErrorContains(t, handshake(t, srv, pki.ClientConfig(pki.OtherClient)), "tls: ")

	stranger := pki.ClientConfig(pki.Client)
	stranger.RootCAs = x509.NewCertPool()
	_, ok := errors.AsType[x509.UnknownAuthorityError](handshake(t, srv, stranger))
	assert.True(t, ok)

	p := srv.Proxy(t)
	proxied := srv.Client(t, func(c *clientv3.Config) { c.Endpoints = p.Endpoints() })
	assert.EqualValues(t, 1, count(t, proxied, "key"))
	assert.NotZero(t, p.Connections())
}

func TestEnableAuth_Users(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv,
		etcdtest.User{Name: "alice", Password: "a", Grants: []etcdtest.Grant{etcdtest.ReadWrite("alice/"), etcdtest.Read("all/")}},
		etcdtest.User{Name: "bob", Password: "b", Grants: []etcdtest.Grant{etcdtest.Write("all/")}})
	alice, bob := srv.Client(t, etcdtest.As("alice", "a")), srv.Client(t, etcdtest.As("bob", "b"))

	put(t, alice, "alice/key")
	put(t, bob, "all/key")
	assert.EqualValues(t, 1, count(t, alice, "all/key"))
	_, err := alice.Put(t.Context(), "all/key", "")
	require.ErrorIs(t, err, rpctypes.ErrPermissionDenied)
	_, err = bob.Get(t.Context(), "all/key")
	require.ErrorIs(t, err, rpctypes.ErrPermissionDenied)
	_, err = srv.Client(t).Get(t.Context(), "all/key")
	require.ErrorIs(t, err, rpctypes.ErrUserEmpty)

	root := srv.Client(t, etcdtest.As("root", etcdtest.RootPassword))
	etcdtest.AddUser(t, root, etcdtest.User{Name: "carol", Password: "c"})
	_, err = srv.Client(t, etcdtest.As("carol", "c")).Get(t.Context(), "all/key")
	require.ErrorIs(t, err, rpctypes.ErrPermissionDenied)

	srv.Restart()
	assert.Positive(t, srv.Compact(0), "the harness logs in as root")
}

func TestCounter_CountsRPCs(t *testing.T) {
	t.Parallel()
	counter := etcdtest.Counter(t)
	cli, dir := counter.Client(t), etcdtest.Prefix(t)
	require.Zero(t, counter.Total())

	put(t, cli, dir+"a")
	put(t, cli, dir+"b")
	_, err := cli.Txn(t.Context()).Commit()
	require.NoError(t, err)
	assert.Equal(t, map[string]int{"KV/Put": 2, "KV/Txn": 1}, counter.Counts())
	assert.Equal(t, 2, counter.Count("KV/Put"))
	assert.Equal(t, 2, counter.Sent("KV/Put"))
	assert.Equal(t, 3, counter.Total())

	_, err = cli.Get(t.Context(), dir, clientv3.WithCountOnly())
	require.NoError(t, err)
	_, err = cli.Get(t.Context(), dir)
	require.NoError(t, err)
	assert.Equal(t, 1, counter.CountOnlyReads(), "the other one has read")

	counter.Reset()
	assert.Zero(t, counter.Total()+counter.CountOnlyReads())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 3 {
		<-cli.Watch(ctx, dir, clientv3.WithCreatedNotify())
	}
	assert.Equal(t, 1, counter.Count("Watch/Watch"), "watches of one context share a stream")
	assert.Equal(t, 3, counter.Sent("Watch/Watch"))
}

func TestCounter_CountsEachAttempt(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	p := srv.Proxy(t)
	counter := etcdtest.Counter(t)
	cli := srv.Client(t, counter.Option, func(c *clientv3.Config) { c.Endpoints = p.Endpoints() })
	put(t, cli, "key")
	counter.Reset()

	p.OnUp(func([]byte) { p.OnUp(nil); p.Cut() }) // the first attempt is cut on its way
	_, err := cli.Get(t.Context(), "key")
	require.NoError(t, err)
	assert.Greater(t, counter.Count("KV/Range"), 1)
}
