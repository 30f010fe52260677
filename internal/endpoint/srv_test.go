package endpoint_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/endpoint"
	"github.com/etcdkit/etcdkit/internal/errs"
)

// records returns a lookup in the domain "example.org", which has the given records of one service.
func records(t *testing.T, service string, srv ...*net.SRV) endpoint.LookupFunc {
	t.Helper()
	return func(_ context.Context, requested, proto, name string) (string, []*net.SRV, error) {
		assert.Equal(t, "tcp", proto)
		assert.Equal(t, "example.org", name)
		if requested != service {
			return "", nil, &net.DNSError{Err: "no such host: _" + requested, Name: name, IsNotFound: true}
		}
		return "", srv, nil
	}
}

func TestLookupSRV_PrefersRecordsForTLS(t *testing.T) {
	t.Parallel()
	a, b := &net.SRV{Target: "a.example.org.", Port: 1}, &net.SRV{Target: "b.example.org.", Port: 2}
	eps, err := endpoint.LookupSRV(t.Context(), records(t, "etcd-client-ssl", a, b), "example.org", false)
	require.NoError(t, err)
	assert.Equal(t, []string{"https://a.example.org:1", "https://b.example.org:2"}, eps)
	eps, err = endpoint.LookupSRV(t.Context(), records(t, "etcd-client", a), "example.org", false)
	require.NoError(t, err)
	assert.Equal(t, []string{"http://a.example.org:1"}, eps)
	_, err = endpoint.LookupSRV(t.Context(), records(t, "etcd-client", a), "example.org", true)
	require.ErrorContains(t, err, "no such host: _etcd-client-ssl", "a plain record does not disable TLS")
}

func TestLookupSRV_ReturnsErrorsOfBothServices(t *testing.T) {
	t.Parallel()
	_, err := endpoint.LookupSRV(t.Context(), records(t, "etcd-server"), "example.org", false)
	require.ErrorIs(t, err, errs.Unavailable)
	require.ErrorContains(t, err, "no such host: _etcd-client-ssl")
	require.ErrorContains(t, err, "no such host: _etcd-client")
	_, err = endpoint.LookupSRV(t.Context(), records(t, "etcd-client"), "example.org", false)
	require.ErrorContains(t, err, "no records _etcd-client._tcp.example.org")
}

func TestLookupSRV_TemporaryFailureDoesNotDisableTLS(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]error{
		"timeout":            &net.DNSError{Err: "i/o timeout", Name: "example.org", IsTimeout: true, IsTemporary: true},
		"misbehaving server": &net.DNSError{Err: "server misbehaving", Name: "example.org", IsTemporary: true},
		"other error":        errors.New("server misbehaving or i/o timeout"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := endpoint.LookupSRV(t.Context(), func(_ context.Context, service, _, _ string) (string, []*net.SRV, error) {
				assert.Equal(t, "etcd-client-ssl", service)
				return "", nil, failure
			}, "example.org", false)
			require.ErrorIs(t, err, errs.Unavailable)
			require.ErrorIs(t, err, failure)
		})
	}
}
