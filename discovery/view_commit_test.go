package discovery

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/watch"
)

// newViewOf returns a view that has received n instances, with the IDs "0" and so on.
func newViewOf(t *testing.T, n int) *view {
	t.Helper()
	set, err := newOptions(nil, []Option{WithGrace(10 * time.Second)})
	require.NoError(t, err)
	v := newView(nil, "s", &set)
	v.onStart()
	b := watch.Batch{Kind: watch.Snapshot, Revision: 100}
	for i := range n {
		b.Events = append(b.Events, putEvent(strconv.Itoa(i), `{"host":"h","port":1}`))
	}
	v.onBatch(b)
	return v
}

func putEvent(id, value string) watch.Event {
	return watch.Event{Type: watch.Put, Key: "services/s/instances/" + id, Value: []byte(value)}
}

func deleteEvent(id string) watch.Event {
	return watch.Event{Type: watch.Delete, Key: "services/s/instances/" + id}
}

func shownIDs(v *view) (ids []string) {
	for _, i := range v.current.Load().list {
		ids = append(ids, i.ID)
	}
	return ids
}

func TestView_ExpiryDoesNotShowPartialList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newViewOf(t, 3)
		v.onBatch(watch.Batch{Kind: watch.Live, Revision: 101, Events: []watch.Event{deleteEvent("0"), deleteEvent("1")}})
		assert.Equal(t, []string{"0", "1", "2"}, shownIDs(v), "a sudden loss")
		v.onBatch(watch.Batch{Kind: watch.Resync, Revision: 110, More: true, Events: []watch.Event{putEvent("5", `{"host":"h","port":1}`)}})
		time.Sleep(11 * time.Second)
		synctest.Wait()
		assert.Equal(t, []string{"0", "1", "2"}, shownIDs(v), "not before all is known")
		v.onBatch(watch.Batch{Kind: watch.Resync, Revision: 110, Events: []watch.Event{putEvent("6", `{"host":"h","port":1}`)}})
		assert.Equal(t, []string{"2", "5", "6"}, shownIDs(v))
	})
}

func TestView_HeldInstancesExpireSeparately(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newViewOf(t, 8)
		lose := func(ids ...string) {
			b := watch.Batch{Kind: watch.Live, Revision: v.revision + 1}
			for _, id := range ids {
				b.Events = append(b.Events, deleteEvent(id))
			}
			v.onBatch(b)
		}
		lose("0", "1", "2", "3", "4")
		// Others are lost before the time of the first is up.
		for _, id := range []string{"5", "6", "7"} {
			time.Sleep(3 * time.Second)
			lose(id)
		}
		assert.Equal(t, []string{"0", "1", "2", "3", "4", "5", "6", "7"}, shownIDs(v))
		for _, left := range [][]string{{"5", "6", "7"}, {"6", "7"}, {"7"}, nil} {
			time.Sleep(1001 * time.Millisecond)
			synctest.Wait()
			assert.Equal(t, left, shownIDs(v))
			time.Sleep(1999 * time.Millisecond)
		}
	})
}

func TestView_RestoredClusterKeepsLiveInstances(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newViewOf(t, 4)
		v.onBatch(watch.Batch{Kind: watch.Resync, Revision: 40, Events: []watch.Event{deleteEvent("3"), putEvent("2", `{"host":"old","port":1}`)}})
		assert.Equal(t, []string{"0", "1", "2", "3"}, shownIDs(v), "one of four: but the history is another one")
		v.onBatch(watch.Batch{Kind: watch.Live, Revision: 41, Events: []watch.Event{putEvent("3", `{"host":"h","port":3}`)}})
		time.Sleep(11 * time.Second)
		synctest.Wait()
		assert.Equal(t, []string{"0", "1", "2", "3"}, shownIDs(v), "it has registered anew")
		v.onBatch(watch.Batch{Kind: watch.Live, Revision: 42, Events: []watch.Event{deleteEvent("3")}})
		assert.Equal(t, []string{"0", "1", "2"}, shownIDs(v), "revisions go on from there")
	})
}

func TestView_DrainingInstancesAreNotHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newViewOf(t, 4)
		for _, id := range []string{"0", "1", "2"} {
			v.onBatch(watch.Batch{Kind: watch.Live, Revision: 101, Events: []watch.Event{putEvent(id, `{"host":"h","port":1,"status":"draining"}`)}})
		}
		v.onStart() // a watch that has begun anew tells everything
		v.onBatch(watch.Batch{Kind: watch.Snapshot, Revision: 120, Events: []watch.Event{putEvent("3", `{"host":"h","port":1}`)}})
		assert.Equal(t, []string{"3"}, shownIDs(v))
		v.onStart()
		v.onBatch(watch.Batch{Kind: watch.Snapshot, Revision: 121})
		assert.Equal(t, []string{"3"}, shownIDs(v), "the last one, which said nothing")
		v.onStart()
		v.onBatch(watch.Batch{Kind: watch.Snapshot, Revision: 122, Events: []watch.Event{putEvent("3", `{"host":`)}})
		assert.Equal(t, []string{"3"}, shownIDs(v), "what was known of it stays")
		assert.Len(t, v.malformed, 1)
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Empty(t, shownIDs(v), "it was held back, and a value that is of no use does not bring it back")
	})
}

// Whether a loss is sudden depends on how many instances there are, those that were held back
// included once they are back.
func TestView_CountsInstancesThatWereHeldBack(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]time.Duration{"and came back in time": time.Second, "and came back late": 11 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			v := newViewOf(t, 8)
			lost := []string{"0", "1", "2", "3", "4"}
			b := watch.Batch{Kind: watch.Live, Revision: 101}
			for _, id := range lost {
				b.Events = append(b.Events, deleteEvent(id))
			}
			v.onBatch(b)
			require.Len(t, shownIDs(v), 8, "a sudden loss")
			time.Sleep(back)
			b = watch.Batch{Kind: watch.Live, Revision: 102}
			for _, id := range lost {
				b.Events = append(b.Events, putEvent(id, `{"host":"h","port":1}`))
			}
			v.onBatch(b)
			require.Len(t, shownIDs(v), 8)
			time.Sleep(time.Minute)
			v.onBatch(watch.Batch{Kind: watch.Live, Revision: 103, Events: []watch.Event{deleteEvent("0"), deleteEvent("5")}})
			assert.Equal(t, []string{"1", "2", "3", "4", "6", "7"}, shownIDs(v), "%s: two of eight are no sudden loss", name)
		})
	}
}
