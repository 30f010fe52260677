package cache

import (
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testElement is an element of a concurrentMap.
type testElement struct {
	key string
	n   int
}

func (e *testElement) mapKey() string { return e.key }

func TestConcurrentMap_MatchesMap(t *testing.T) {
	t.Parallel()
	for _, maxLoad := range []int{50, 75} {
		var m concurrentMap[testElement, *testElement]
		m.init(maxLoad)
		want := map[string]int{}
		for n := range 20_000 {
			key := strconv.Itoa(rand.IntN(1 + n/40))
			if rand.IntN(3) == 0 {
				m.remove(key)
				delete(want, key)
			} else {
				m.set(&testElement{key, n})
				want[key] = n
			}
			e := m.get(key)
			n, found := want[key]
			if found && assert.NotNil(t, e) {
				require.Equal(t, n, e.n)
			}
			require.Equal(t, found, e != nil && e != m.tombstone, key)
			require.Equal(t, len(want), m.size)
		}
		got := map[string]int{}
		for e := range m.all {
			got[e.key] = e.n
		}
		require.True(t, maps.Equal(want, got))
		require.Nil(t, m.get(""))
	}
}

func TestConcurrentMap_ReadersSeeEveryStableKey(t *testing.T) {
	t.Parallel()
	var m concurrentMap[testElement, *testElement]
	m.init(75)
	const stable = 50
	for i := range stable {
		m.set(&testElement{key: "stable" + strconv.Itoa(i)})
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				key := "stable" + strconv.Itoa(rand.IntN(stable))
				if e := m.get(key); !assert.NotNil(t, e) || !assert.Equal(t, key, e.key) {
					return
				}
			}
		})
	}
	for n := range 50_000 { // grows, and reuses slots of removed keys
		m.set(&testElement{key: strconv.Itoa(n)})
		m.remove(strconv.Itoa(n - rand.IntN(100)))
	}
	close(done)
	readers.Wait()
}
