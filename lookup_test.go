package etcdkit_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// dns returns an option for a resolver of the domain "example.org" with a record of the service for
// each endpoint.
func dns(t *testing.T, service string, endpoints ...string) etcdkit.Option {
	t.Helper()
	return etcdkit.WithLookup(func(_ context.Context, asked, proto, name string) (string, []*net.SRV, error) {
		assert.Equal(t, "tcp", proto)
		assert.Equal(t, "example.org", name)
		if asked != service {
			return "", nil, &net.DNSError{Err: "no such host: _" + asked, Name: name, IsNotFound: true}
		}
		var out []*net.SRV
		for _, ep := range endpoints {
			_, hostport, _ := strings.Cut(ep, "://")
			at, err := netip.ParseAddrPort(hostport)
			require.NoError(t, err)
			out = append(out, &net.SRV{Target: "localhost.", Port: at.Port()})
		}
		return "", out, nil
	})
}

func TestOpen_LooksUpEndpoints(t *testing.T) {
	t.Parallel()
	cfg := etcdkit.Config{DiscoverySRV: "example.org"}
	c := open(t, cfg, dns(t, "etcd-client", etcdtest.Endpoints()...))
	_, err := c.KV().Exists(t.Context(), "k")
	require.NoError(t, err)
	require.Len(t, c.Raw().Endpoints(), 1)
	assert.Contains(t, c.Raw().Endpoints()[0], "http://localhost:")
}

func TestOpen_VerifiesDomainOfSRVRecords(t *testing.T) {
	t.Parallel()
	pki := etcdtest.Certs(t)
	s := etcdtest.Start(t, etcdtest.WithTLS(pki.TLS(pki.Server)))
	cfg := etcdkit.Config{DiscoverySRV: "example.org", TLS: etcdkit.TLSConfig{CAFile: pki.CAFile}}
	found := dns(t, "etcd-client-ssl", s.Endpoint())
	_, err := etcdkit.Open(t.Context(), cfg, found)
	require.ErrorIs(t, err, etcdkit.ErrUnavailable)
	require.ErrorContains(t, err, "not example.org", "the certificate is for localhost, the target of the record")
	cfg.TLS.ServerName = "localhost"
	open(t, cfg, found)
	cfg.TLS = etcdkit.TLSConfig{}
	_, err = etcdkit.Open(t.Context(), cfg, found)
	require.ErrorContains(t, err, "x509", "records for TLS require TLS")
}

func TestOpen_ReturnsLookupErrors(t *testing.T) {
	t.Parallel()
	cfg := etcdkit.Config{DiscoverySRV: "example.org"}
	_, err := etcdkit.Open(t.Context(), cfg, dns(t, "etcd-server"))
	require.ErrorIs(t, err, etcdkit.ErrUnavailable)
	require.ErrorContains(t, err, "no such host: _etcd-client")

	_, err = etcdkit.OpenLazy(cfg)
	require.ErrorIs(t, err, etcdkit.ErrInvalid)
	require.ErrorContains(t, err, "use Open")
}

func TestOpen_SRVRecordCannotExposeCredentials(t *testing.T) {
	t.Parallel()
	cfg := etcdkit.Config{DiscoverySRV: "example.org", Username: "u", Password: etcdkit.NewSecret(planted)}
	_, err := etcdkit.Open(t.Context(), cfg, etcdkit.WithLookup(func(_ context.Context, service, _, _ string) (string, []*net.SRV, error) {
		if service == "etcd-client-ssl" {
			return "", nil, nil
		}
		return "", []*net.SRV{{Target: "evil.example.", Port: 2379}}, nil
	}))
	require.ErrorIs(t, err, etcdkit.ErrInvalid)
	require.ErrorContains(t, err, "in clear text")
	assertHides(t, err.Error())
}
