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

// contents returns the values of an acquired snapshot.
func contents(m *mvccMap[int], snapshot uint64) map[string]int {
	out := map[string]int{}
	for _, n := range m.list(snapshot) {
		out[n.key] = n.value
	}
	return out
}

func TestMVCCMap_MatchesMapAtEachSnapshot(t *testing.T) {
	t.Parallel()
	const keys, commits = 200, 1500
	m := newMVCCMap[int]()
	model := map[string]int{}
	acquired := map[uint64]map[string]int{}
	counts := map[uint64]int{}
	for rev := range int64(commits) {
		m.mu.Lock()
		for range rand.IntN(4) {
			key := strconv.Itoa(rand.IntN(keys))
			if rand.IntN(3) == 0 {
				m.remove(key, rev+1)
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
			m.set(newVersion(e, 0, nil))
			model[key] = v
			require.Equal(t, e, m.latest(key).entry())
		}
		m.commit()
		m.trim()
		m.mu.Unlock()
		require.Equal(t, int64(len(model)), m.valid.Load())
		if snapshot := m.acquire(); len(acquired) < 5 || acquired[snapshot] != nil {
			acquired[snapshot] = maps.Clone(model)
			counts[snapshot]++
		} else {
			m.release(snapshot)
		}
		for snapshot, want := range acquired {
			if rev%8 == 0 {
				require.Equal(t, want, contents(m, snapshot))
			}
			for range 10 {
				key := rand.IntN(keys)
				n := m.latest(strconv.Itoa(key)).at(snapshot)
				v, ok := want[strconv.Itoa(key)]
				require.Equal(t, ok, n != nil)
				if ok {
					require.Equal(t, v, n.value)
				}
			}
			if rand.IntN(20) == 0 {
				for range counts[snapshot] {
					m.release(snapshot)
				}
				delete(acquired, snapshot)
				delete(counts, snapshot)
			}
		}
	}
	for snapshot := range acquired {
		for range counts[snapshot] {
			m.release(snapshot)
		}
	}
	assert.Nil(t, m.untrimmed, "everything is trimmed without readers")
	assert.Empty(t, m.readers)
	for n := range m.versions.all {
		assert.False(t, n.isDeleted())
		if meta := n.meta.Load(); meta != nil {
			assert.Nil(t, meta.previous)
			assert.True(t, meta.permanent)
		}
	}
}

func TestMVCCMap_DoesNotGrowUnderChurn(t *testing.T) {
	t.Parallel()
	m := newMVCCMap[int]()
	for i := range 100_000 {
		m.mu.Lock()
		m.set(newVersion(kv.Entry[int]{Key: strconv.Itoa(i), ModRevision: 1}, 0, nil))
		m.remove(strconv.Itoa(i-10), 1)
		m.commit()
		m.trim()
		m.mu.Unlock()
	}
	assert.LessOrEqual(t, len(*m.versions.slots.Load()), 64)
	assert.Equal(t, int64(10), m.valid.Load())
}

func TestMVCCMap_ReadersSeeWholeSnapshots(t *testing.T) {
	t.Parallel()
	m := newMVCCMap[int]()
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
					if n := m.get(strconv.Itoa(i)); n != nil {
						assert.GreaterOrEqual(t, n.value, last, "a later read of an earlier snapshot")
						last = n.value
					}
				}
				snapshot := m.acquire()
				got := contents(m, snapshot)
				m.release(snapshot)
				for _, v := range got {
					assert.Equal(t, int(snapshot), v)
				}
				assert.True(t, snapshot == 0 || len(got) == keys || len(got) == 1, "%d keys", len(got))
			}
		})
	}
	for snapshot := 1; snapshot <= 3000; snapshot++ {
		m.mu.Lock()
		for i := range keys {
			if snapshot%5 == 0 && i > 0 {
				m.remove(strconv.Itoa(i), 1)
				continue
			}
			m.set(newVersion(kv.Entry[int]{Key: strconv.Itoa(i), Value: snapshot, ModRevision: 1}, 0, nil))
		}
		m.commit()
		m.trim()
		m.mu.Unlock()
	}
	close(done)
	readers.Wait()
}

func TestMVCCMap_UndecodableVersionIsNoValue(t *testing.T) {
	t.Parallel()
	m := newMVCCMap[int]()
	bad := errors.New("bad")
	m.set(newVersion(kv.Entry[int]{Key: "a", ModRevision: 1}, 0, bad))
	m.commit()
	before, after := m.changes(1)
	assert.Empty(t, before, "a key without a value has not changed")
	assert.Empty(t, after)
	m.trim()
	require.ErrorIs(t, m.get("a").decodeErr(), bad)
	assert.Equal(t, int64(1), m.invalid.Load())
	assert.Zero(t, m.valid.Load())
	m.set(newVersion(kv.Entry[int]{Key: "a", ModRevision: 2, Value: 5}, 0, nil))
	m.set(newVersion(kv.Entry[int]{Key: "a", ModRevision: 2, Value: 6}, 0, nil))
	m.commit()
	before, after = m.changes(2)
	require.Len(t, after, 1, "twice in one snapshot is once")
	assert.Nil(t, before[0])
	assert.Equal(t, 6, after[0].value)
}
