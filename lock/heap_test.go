package lock_test

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/lock"
)

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers have kept
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

//nolint:paralleltest // the heap is everybody's
func TestMutex_HoldTakesOneKiBAndNoGoroutine(t *testing.T) {
	const (
		holds   = 10_000
		most    = 1024
		workers = 16
	)
	s := etcdtest.Start(t) // the names of what is shared are long
	l, _ := lockerOver(t, s.Client(t, harden), "app/")
	names := make([]string, holds)
	for i := range names {
		names[i] = fmt.Sprintf("job-%05d", i)
	}
	all := make([]*lock.Held, holds)
	lockAll := func() {
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := w; i < holds; i += workers {
					h, err := l.Mutex(names[i]).Lock(t.Context())
					if !assert.NoError(t, err) {
						return
					}
					all[i] = h
				}
			})
		}
		wg.Wait()
		require.False(t, t.Failed())
	}
	releaseAll := func() {
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := w; i < holds; i += workers {
					assert.NoError(t, all[i].Release(t.Context()))
					all[i] = nil
				}
			})
		}
		wg.Wait()
	}
	mustRelease(t, mustLock(t, l.Mutex("first"))) // opens what is opened once
	before, goroutines := heap(), runtime.NumGoroutine()
	lockAll()
	eventually(t, func() bool { return l.Stats().Watched == holds })
	assert.Eventually(t, func() bool { // what is in flight takes memory too
		each := (heap() - before) / holds
		t.Logf("%d B for each hold", each)
		return each < most
	}, 10*time.Second, 100*time.Millisecond)
	assert.Less(t, runtime.NumGoroutine(), goroutines+100)
	releaseAll()
}
