package cache

import (
	"errors"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/kv"
)

// contents is what a table has after a step that is looked at.
func contents(t *table[int], step uint64) map[string]int {
	out := map[string]int{}
	for _, n := range t.all(step) {
		out[n.key] = n.value
	}
	return out
}

func TestATableIsWhatAMapWasAtEachStep(t *testing.T) {
	t.Parallel()
	const keys, steps = 200, 1500
	tab := newTable[int]()
	model := map[string]int{}
	looked := map[uint64]map[string]int{}
	counts := map[uint64]int{}
	for rev := range int64(steps) {
		tab.mu.Lock()
		for range rand.IntN(4) {
			key := strconv.Itoa(rand.IntN(keys))
			if rand.IntN(3) == 0 {
				tab.remove(key, rev+1)
				delete(model, key)
				continue
			}
			v := rand.Int()
			e := kv.Entry[int]{Key: key, Value: v, ModRevision: rev + 1, CreateRevision: 1, Version: rev + 1}
			if v%7 == 0 {
				e.Lease = clientv3.LeaseID(v)
			}
			if v%11 == 0 {
				e.CreateRevision = -1 << 40 // does not fit
			}
			tab.set(newNode(e, 0, nil))
			model[key] = v
			require.Equal(t, e, tab.find(key).entry())
		}
		tab.commit()
		tab.cut()
		tab.mu.Unlock()
		require.Equal(t, int64(len(model)), tab.goods.Load())
		if step := tab.view(); len(looked) < 5 || looked[step] != nil {
			looked[step] = maps.Clone(model)
			counts[step]++
		} else {
			tab.end(step)
		}
		for step, want := range looked {
			if rev%8 == 0 {
				require.Equal(t, want, contents(tab, step))
			}
			for range 10 {
				key := rand.IntN(keys)
				n := tab.find(strconv.Itoa(key)).at(step)
				v, ok := want[strconv.Itoa(key)]
				require.Equal(t, ok, n != nil)
				if ok {
					require.Equal(t, v, n.value)
				}
			}
			if rand.IntN(20) == 0 {
				for range counts[step] {
					tab.end(step)
				}
				delete(looked, step)
				delete(counts, step)
			}
		}
	}
	for step := range looked {
		for range counts[step] {
			tab.end(step)
		}
	}
	assert.Nil(t, tab.dirty, "nothing is kept for nobody")
	assert.Empty(t, tab.views)
	for i := range tab.slots.Load().list {
		if n := tab.slots.Load().list[i].Load(); n != nil && n != tab.tomb {
			assert.False(t, n.isGone())
			if m := n.more.Load(); m != nil {
				assert.Nil(t, m.prev)
				assert.True(t, m.keep)
			}
		}
	}
}

func TestATableThatChurnsDoesNotGrow(t *testing.T) {
	t.Parallel()
	tab := newTable[int]()
	for i := range 100_000 {
		tab.mu.Lock()
		tab.set(newNode(kv.Entry[int]{Key: strconv.Itoa(i), ModRevision: 1}, 0, nil))
		tab.remove(strconv.Itoa(i-10), 1)
		tab.commit()
		tab.cut()
		tab.mu.Unlock()
	}
	assert.LessOrEqual(t, len(tab.slots.Load().list), 64)
	assert.Equal(t, int64(10), tab.goods.Load())
}

func TestReadersOfATableNeverSeeHalfAStep(t *testing.T) {
	t.Parallel()
	tab := newTable[int]()
	const keys = 20
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for last := 0; ; {
				select {
				case <-done:
					return
				default:
				}
				for _, i := range rand.Perm(keys) {
					if n := tab.get(strconv.Itoa(i)); n != nil {
						assert.GreaterOrEqual(t, n.value, last, "a later read of an earlier step")
						last = n.value
					}
				}
				step := tab.view()
				got := contents(tab, step)
				tab.end(step)
				for _, v := range got {
					assert.Equal(t, int(step), v)
				}
				assert.True(t, step == 0 || len(got) == keys || len(got) == 1, "%d keys", len(got))
			}
		})
	}
	for step := 1; step <= 3000; step++ {
		tab.mu.Lock()
		for i := range keys {
			if step%5 == 0 && i > 0 {
				tab.remove(strconv.Itoa(i), 1)
				continue
			}
			tab.set(newNode(kv.Entry[int]{Key: strconv.Itoa(i), Value: step, ModRevision: 1}, 0, nil))
		}
		tab.commit()
		tab.cut()
		tab.mu.Unlock()
	}
	close(done)
	readers.Wait()
}

func TestABadNodeIsNoValue(t *testing.T) {
	t.Parallel()
	tab := newTable[int]()
	bad := errors.New("bad")
	tab.set(newNode(kv.Entry[int]{Key: "a", ModRevision: 1}, 0, bad))
	tab.commit()
	before, after := tab.changed(1)
	assert.Empty(t, before, "nobody is told of what never had a value")
	assert.Empty(t, after)
	tab.cut()
	require.ErrorIs(t, tab.get("a").badness(), bad)
	assert.Equal(t, int64(1), tab.bads.Load())
	assert.Zero(t, tab.goods.Load())
	tab.set(newNode(kv.Entry[int]{Key: "a", ModRevision: 2, Value: 5}, 0, nil))
	tab.set(newNode(kv.Entry[int]{Key: "a", ModRevision: 2, Value: 6}, 0, nil))
	tab.commit()
	before, after = tab.changed(2)
	require.Len(t, after, 1, "twice in one step is once")
	assert.Nil(t, before[0])
	assert.Equal(t, 6, after[0].value)
}
