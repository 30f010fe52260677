package lock_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	recipe "go.etcd.io/etcd/client/v3/experimental/recipes"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

// hardened returns a client with the settings of etcdkit.Open.
func hardened(tb testing.TB) *clientv3.Client {
	tb.Helper()
	return etcdtest.Client(tb, harden)
}

// BenchmarkReadMostly measures readers of four clients, with a writer every tenth time.
func BenchmarkReadMostly(b *testing.B) {
	const clients = 4
	pairs := map[string]func(b *testing.B, dir string) (read, write func() error){
		"etcdkit": func(b *testing.B, dir string) (read, write func() error) {
			b.Helper()
			l, _ := lockerOver(b, hardened(b), dir)
			m := l.RWMutex("m")
			read = func() error {
				p, err := m.RLock(b.Context())
				if err != nil {
					return err
				}
				return p.Release(b.Context())
			}
			write = func() error {
				h, err := m.Lock(b.Context())
				if err != nil {
					return err
				}
				return h.Release(b.Context())
			}
			return read, write
		},
		"recipes": func(b *testing.B, dir string) (read, write func() error) {
			b.Helper()
			m := recipe.NewRWMutex(theirSession(b, etcdtest.Client(b)), dir+"m")
			read = func() error {
				if err := m.RLock(); err != nil {
					return err
				}
				return m.RUnlock()
			}
			write = func() error {
				if err := m.Lock(); err != nil {
					return err
				}
				return m.Unlock()
			}
			return read, write
		},
	}
	for name, pair := range pairs {
		b.Run(name, func(b *testing.B) {
			dir := etcdtest.Prefix(b)
			type one struct{ read, write func() error }
			var all []one
			for range clients {
				read, write := pair(b, dir)
				all = append(all, one{read, write})
			}
			b.ResetTimer()
			var wg sync.WaitGroup
			for _, c := range all {
				wg.Go(func() {
					for i := range b.N / clients {
						do := c.read
						if i%10 == 0 {
							do = c.write
						}
						if !assert.NoError(b, do()) {
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkDoubleBarrier measures five parties of five clients that enter and leave together.
func BenchmarkDoubleBarrier(b *testing.B) {
	const n = 5
	party := map[string]func(b *testing.B, dir string) func() error{
		"etcdkit": func(b *testing.B, dir string) func() error {
			b.Helper()
			l, _ := lockerOver(b, hardened(b), dir)
			d := l.DoubleBarrier("b", n)
			return func() error {
				if err := d.Enter(b.Context()); err != nil {
					return err
				}
				return d.Leave(b.Context())
			}
		},
		"recipes": func(b *testing.B, dir string) func() error {
			b.Helper()
			s := theirSession(b, etcdtest.Client(b))
			return func() error {
				d := recipe.NewDoubleBarrier(s, dir+"b", n)
				if err := d.Enter(); err != nil {
					return err
				}
				return d.Leave()
			}
		},
	}
	for name, join := range party {
		b.Run(name, func(b *testing.B) {
			dir := etcdtest.Prefix(b)
			var all []func() error
			for range n {
				all = append(all, join(b, dir))
			}
			for b.Loop() {
				var wg sync.WaitGroup
				for _, pass := range all {
					wg.Go(func() { assert.NoError(b, pass()) })
				}
				wg.Wait()
			}
		})
	}
}

// BenchmarkSemaphoreUncontended measures a permit that is granted at once.
func BenchmarkSemaphoreUncontended(b *testing.B) {
	l, _ := lockerOver(b, hardened(b), etcdtest.Prefix(b))
	s := l.Semaphore("s", 4)
	var held []*lock.Permit
	for range 3 {
		held = append(held, mustAcquire(b, s, 1))
	}
	for b.Loop() {
		p, err := s.Acquire(b.Context())
		require.NoError(b, err)
		require.NoError(b, p.Release(b.Context()))
	}
	for _, p := range held {
		mustGive(b, p)
	}
}
