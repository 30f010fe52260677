package config_test

import (
	"encoding/json"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

func TestValue_LoadDoesNotAllocate(t *testing.T) { //nolint:paralleltest // others would allocate meanwhile
	p := parttest.Shared(t)
	put(t, p, "shop/name", "shop")
	s := open(t, p)
	v := bindDir[service](t, s, "shop")
	n := bind(t, s, "n", config.WithDefault(1))
	require.Zero(t, testing.AllocsPerRun(1000, func() { _ = v.Load() }))
	require.Zero(t, testing.AllocsPerRun(1000, func() { _ = n.Load() }))
}

// BenchmarkLoad is what it costs to read configuration for each request.
func BenchmarkLoad(b *testing.B) {
	p := parttest.Shared(b)
	put(b, p, "limits", `{"text":"x","days":[1,2,3]}`)
	put(b, p, "rate", "100")
	s := open(b, p)
	rate := bind[int](b, s, "rate")
	limits := bind[banner](b, s, "limits")
	b.Run("Load of an int", func(b *testing.B) {
		b.ReportAllocs()
		sum := 0
		for b.Loop() {
			sum += rate.Load()
		}
	})
	b.Run("Load of a struct", func(b *testing.B) {
		b.ReportAllocs()
		sum := 0
		for b.Loop() {
			sum += len(limits.Load().Text)
		}
	})
	b.Run("Load from all processors", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_ = rate.Load()
			}
		})
	})
	b.Run("peer: an atomic pointer", func(b *testing.B) {
		var p atomic.Pointer[int]
		p.Store(new(int))
		sum := 0
		for b.Loop() {
			sum += *p.Load()
		}
	})
	b.Run("peer: a map behind a RWMutex", func(b *testing.B) {
		var mu sync.RWMutex
		m := map[string]int{"rate": 1}
		sum := 0
		for b.Loop() {
			mu.RLock()
			sum += m["rate"]
			mu.RUnlock()
		}
	})
	b.Run("Get of an int", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = config.Get[int](s, "rate")
		}
	})
	b.Run("Get of a struct", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = config.Get[banner](s, "limits")
		}
	})
	b.Run("peer: json.Unmarshal of the struct", func(b *testing.B) {
		b.ReportAllocs()
		raw := []byte(`{"text":"x","days":[1,2,3]}`)
		for b.Loop() {
			var x banner
			_ = json.Unmarshal(raw, &x)
		}
	})
}

// BenchmarkChange is a transaction of five keys, until it is loaded: one decode, however many are
// told of it.
func BenchmarkChange(b *testing.B) {
	for _, followers := range []int{1, 16} {
		b.Run(strconv.Itoa(followers)+" followers", func(b *testing.B) {
			p := parttest.Shared(b)
			s := open(b, p)
			v := bindDir[fiveFields](b, s, "five")
			for range followers {
				v.Follow(func(fiveFields) {})
			}
			before := s.Stats().Decodes
			i := 0
			for b.Loop() {
				i++
				rev, err := writeFive(b.Context(), p.KV(), 10*i+1)
				require.NoError(b, err)
				for v.Load().A != 10*i+1 || s.Status().Revision < rev {
					_ = v.Load()
				}
			}
			b.ReportMetric(float64(s.Stats().Decodes-before)/float64(i), "decodes/op")
		})
	}
}
