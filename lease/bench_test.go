package lease_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lease"
)

// BenchmarkSession_Err is what a holder pays for looking at the clock.
func BenchmarkSession_Err(b *testing.B) {
	m := etcdtest.Must(lease.New(etcdtest.Client(b)))
	defer m.Close()
	s, err := m.OpenSession(b.Context())
	require.NoError(b, err)
	b.Run("Session", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = s.Err()
		}
	})
	b.Run("Context", func(b *testing.B) {
		ctx := s.Context()
		b.ReportAllocs()
		for b.Loop() {
			_ = ctx.Err()
		}
	})
	b.Run("derived", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, stop := context.WithCancel(s.Context())
			stop()
		}
	})
}

// BenchmarkManager_Shared is what a user of the shared session pays when it is there.
func BenchmarkManager_Shared(b *testing.B) {
	m := etcdtest.Must(lease.New(etcdtest.Client(b)))
	defer m.Close()
	_, err := m.Shared(b.Context())
	require.NoError(b, err)
	b.Run("Shared", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = m.Shared(b.Context())
		}
	})
	b.Run("Acquire", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, release, _ := m.Acquire(b.Context())
			release()
		}
	})
}

// BenchmarkManager_OpenClose is a private session, beside that of client/v3.
func BenchmarkManager_OpenClose(b *testing.B) {
	cli := etcdtest.Client(b)
	m := etcdtest.Must(lease.New(cli))
	defer m.Close()
	b.Run("lease", func(b *testing.B) {
		for b.Loop() {
			s, err := m.OpenSession(b.Context())
			require.NoError(b, err)
			require.NoError(b, s.Close())
		}
	})
	b.Run("concurrency", func(b *testing.B) {
		for b.Loop() {
			s, err := concurrency.NewSession(cli)
			require.NoError(b, err)
			require.NoError(b, s.Close())
		}
	})
}
