package lease_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lease"
)

func TestErrors_HaveOnePrefixAndNameWhatIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEtcd()
		m := f.manager(t)
		closed, err := m.OpenSession(t.Context())
		require.NoError(t, err)
		require.NoError(t, closed.Close())
		lost, err := m.OpenSession(t.Context())
		require.NoError(t, err)
		f.expire(lost.ID())
		require.Error(t, lost.Verify(t.Context()))
		f.setFault(refuseRequests)
		_, _, unreachable := m.Acquire(t.Context())
		_, openKey := m.OpenKey(t.Context(), "k", nil)
		f.setFault(noFault)
		openSession(t, m, time.Minute)
		f.setFault(refuseRequests)
		closeErr := m.Close()
		_, err = m.Grant(t.Context(), time.Minute)
		for _, tt := range []struct {
			err  error
			want string
		}{
			{closed.Verify(t.Context()), ": session closed"},
			{context.Cause(closed.Context()), "session closed"},
			{lost.Verify(t.Context()), ": lease expired: not found"},
			{unreachable, "lease: acquire session: grant: "},
			{openKey, "lease: open key \"k\": "},
			{closeErr, "lease: close: revoke \""},
			{err, "lease: grant: lease manager closed"},
		} {
			require.ErrorContains(t, tt.err, tt.want)
			assert.LessOrEqual(t, strings.Count(tt.err.Error(), "lease: "), 1, tt.err)
		}
	})
}

func TestSession_LossReportsRefusedConnection(t *testing.T) {
	t.Parallel()
	proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
	var logs etcdtest.Log
	m := newManager(t, etcdtest.NewClient(t, proxy.Endpoints()), lease.WithLogger(slog.New(slog.NewTextHandler(&logs, nil))))
	s, err := m.OpenSession(t.Context(), lease.WithTTL(3*time.Second))
	require.NoError(t, err)
	proxy.Refuse()
	proxy.Cut()
	<-s.Context().Done()
	require.ErrorContains(t, s.Err(), "connection refused")
	require.ErrorIs(t, s.Err(), lease.ErrUnavailable)
	assert.Equal(t, 1, strings.Count(logs.String(), "leases are not renewed"))
	assert.Contains(t, logs.String(), "connection refused")
	proxy.Accept()
}
