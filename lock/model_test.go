package lock

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/watch"
)

func TestTheModelIsTheQueueWhateverHappens(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, seed))
		var m model
		truth := map[string]entry{}
		for rev := int64(1); rev < 500; rev++ {
			key := strconv.Itoa(r.IntN(12))
			was, there := truth[key]
			switch {
			case there && r.IntN(2) == 0:
				delete(truth, key)
				m.apply(&watch.Event{Type: watch.Delete, Key: key, ModRevision: rev})
			case there:
				was.mod = rev
				truth[key] = was
				m.apply(&watch.Event{Key: key, ModRevision: rev, CreateRevision: was.create})
			default:
				truth[key] = entry{key: key, create: rev, mod: rev}
				m.apply(&watch.Event{Key: key, ModRevision: rev, CreateRevision: rev})
			}
			if r.IntN(50) == 0 { // the queue is read
				all := make([]entry, 0, len(truth))
				for _, e := range truth {
					all = append(all, e)
				}
				m.reset(all)
			}
			checkModel(t, &m, truth)
		}
	}
}

func checkModel(t *testing.T, m *model, truth map[string]entry) {
	t.Helper()
	require.Len(t, m.list, len(truth))
	require.True(t, slices.IsSortedFunc(m.list, before))
	for i, e := range m.list {
		require.Equal(t, truth[e.key], e)
		got, ahead, ok := m.find(e.key)
		require.True(t, ok)
		require.Equal(t, e, got)
		require.Len(t, ahead, i)
		if e.mod > e.create {
			require.GreaterOrEqual(t, m.rewritten, e.mod)
		}
	}
	_, _, ok := m.find("nobody")
	require.False(t, ok)
}

func TestAKeyThatIsCreatedAgainStandsAtTheEnd(t *testing.T) {
	t.Parallel()
	var m model
	m.apply(&watch.Event{Key: "a", ModRevision: 1, CreateRevision: 1})
	m.apply(&watch.Event{Key: "b", ModRevision: 2, CreateRevision: 2})
	m.apply(&watch.Event{Key: "a", ModRevision: 3, CreateRevision: 3}) // the deletion in between is of no matter
	assert.Equal(t, "b", m.list[0].key)
	_, ahead, ok := m.find("a")
	require.True(t, ok)
	assert.Len(t, ahead, 1)
}

func TestOnlyTheFirstIsAdmitted(t *testing.T) {
	t.Parallel()
	yes, blocker := first(nil, entry{})
	assert.True(t, yes)
	assert.Nil(t, blocker)
	yes, blocker = first([]entry{{key: "a", lease: 1}, {key: "b"}}, entry{})
	assert.False(t, yes)
	assert.Nil(t, blocker)
	yes, blocker = first([]entry{{key: "b"}, {key: "a", lease: 1}}, entry{})
	assert.False(t, yes)
	assert.Equal(t, "b", blocker.key)
}

func TestOnlyDirectChildrenCount(t *testing.T) {
	t.Parallel()
	assert.True(t, direct("n/", "n/a"))
	assert.False(t, direct("n/", "n/"))
	assert.False(t, direct("n/", "n/a/b"))
	assert.False(t, direct("n/", "n/a/"))
}

// What free compares are ranges: together they hold every direct child of the prefix, and none of the deeper keys.
func TestTheGapsBetweenDeeperKeysHoldAllDirectChildren(t *testing.T) {
	t.Parallel()
	deeper := []string{"n/b/x", "n/b/y/z", "n/a/1", "n/c/", "n/.rw/1"}
	within := func(key string) (n int) {
		for _, c := range free("n/", deeper) {
			if key >= string(c.KeyBytes()) && key < string(c.GetCompare().GetRangeEnd()) {
				n++
			}
		}
		return n
	}
	for _, key := range []string{"n/0", "n/a", "n/a.", "n/a0", "n/aa", "n/b", "n/bb", "n/b0", "n/c", "n/z", "n/.", "n/.rw", "n/.rw0", "n/\xff"} {
		assert.Equal(t, 1, within(key), key)
	}
	for _, key := range append(deeper, "n/b/new", "n/a/", "m/x", "n", "n0", "o/x") {
		assert.Zero(t, within(key), key)
	}
	assert.Len(t, free("n/", nil), 1)
}
