package endpoint_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/endpoint"
	"github.com/etcdkit/etcdkit/internal/errs"
)

func TestParseAll_ReturnsAllErrors(t *testing.T) {
	t.Parallel()
	eps, all := endpoint.ParseAll([]string{"a:1", "ftp://b", "c:x", "a:1", "http://d", "https://e"})
	assert.Len(t, eps, 3)
	require.Len(t, all, 3)
	for _, err := range all {
		require.ErrorIs(t, err, errs.Invalid)
	}
	require.ErrorContains(t, errors.Join(all...), `endpoint "ftp://b" has a scheme other than`)
	require.ErrorContains(t, errors.Join(all...), `endpoint "c:x" has no port`)
	require.ErrorContains(t, errors.Join(all...), "endpoints https://e:2379 and http://d:2379 have different schemes")
}

func TestFormat_ChecksTLSAndCredentials(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, ep        string
		hasTLS, private bool
		want            string // "" if the endpoint is valid
	}{
		{"plain", "http://10.0.0.1", false, false, ""},
		{"http with TLS", "http://10.0.0.1", true, false, "has the scheme http, but TLS is configured"},
		{"credentials without TLS", "10.0.0.1", false, true, "in clear text"},
		{"credentials with TLS", "10.0.0.1", true, true, ""},
		{"credentials to a loopback address", "[::1]:1", false, true, ""},
		{"credentials to a socket", "unix:///run/etcd.sock", false, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			eps, all := endpoint.ParseAll([]string{tt.ep})
			require.Empty(t, all)
			_, all = endpoint.Format(eps, tt.hasTLS, tt.private)
			if tt.want == "" {
				require.Empty(t, all)
				return
			}
			require.Len(t, all, 1)
			require.ErrorIs(t, all[0], errs.Invalid)
			require.ErrorContains(t, all[0], tt.want)
		})
	}
}

func TestSameAddress_IgnoresScheme(t *testing.T) {
	t.Parallel()
	assert.True(t, endpoint.SameAddress("http://a", "a:2379"))
	assert.False(t, endpoint.SameAddress("http://a", "b:2379"))
	assert.False(t, endpoint.SameAddress("http://a/path", "a:2379"))
}
