package lock_test

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

// underCuts makes goroutines of several clients call do many times while the connections of all are
// cut. do reports whether it was granted the lock. underCuts returns how often it was.
func underCuts(t *testing.T, dir string, do func(l *lock.Locker, r *rand.Rand) bool) (calls, granted int) {
	t.Helper()
	const clients, each = 4, 5
	rounds := 30 // times 20 is 600
	if long() {
		rounds = 500
	}
	var count atomic.Int64
	var wg sync.WaitGroup
	for c := range clients {
		proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
		l, _ := lockerOver(t, etcdtest.NewClient(t, proxy.Endpoints(), harden), dir)
		for g := range each {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(c), uint64(g)))
				for i := range rounds {
					// The five goroutines of a client do this at different times.
					if i%15 == 3*g {
						proxy.Cut()
					}
					if do(l, r) {
						count.Add(1)
					}
				}
			})
		}
	}
	wg.Wait()
	queued(t, etcdtest.Client(t), dir+"locks/", 0)
	return clients * each * rounds, int(count.Load())
}

func TestRWMutex_WriterIsAloneDespiteConnectionLoss(t *testing.T) {
	t.Parallel()
	inside := &room{}
	calls, granted := underCuts(t, etcdtest.Prefix(t), func(l *lock.Locker, r *rand.Rand) bool {
		m := l.RWMutex("m")
		if r.IntN(3) > 0 {
			p, err := m.RLock(timely(t))
			if err != nil {
				return false // an answer is an answer
			}
			inside.read(t)
			runtime.Gosched()
			inside.leave()
			_ = p.Release(timely(t)) // its answer may be lost
			return true
		}
		h, err := m.Lock(timely(t))
		if err != nil {
			return false
		}
		inside.write(t)
		runtime.Gosched()
		inside.leave()
		_ = h.Release(timely(t))
		return true
	})
	assert.Greater(t, granted, calls/2)
	t.Logf("%d of %d were granted", granted, calls)
}

func TestSemaphore_NeverExceedsNDespiteConnectionLoss(t *testing.T) {
	t.Parallel()
	const n = 4
	var inside, top atomic.Int64
	calls, granted := underCuts(t, etcdtest.Prefix(t), func(l *lock.Locker, r *rand.Rand) bool {
		weight := 1 + r.IntN(n)*r.IntN(2)
		p, err := l.Semaphore("s", n).AcquireN(timely(t), weight)
		if err != nil {
			return false
		}
		now := inside.Add(int64(weight))
		if now > n {
			assert.Fail(t, "too many", "%d", now)
		}
		for old := top.Load(); now > old && !top.CompareAndSwap(old, now); old = top.Load() {
		}
		runtime.Gosched()
		inside.Add(-int64(weight))
		_ = p.Release(timely(t))
		return true
	})
	assert.Greater(t, granted, calls/2)
	assert.EqualValues(t, n, top.Load(), "it was made use of")
	t.Logf("%d of %d were granted", granted, calls)
}
