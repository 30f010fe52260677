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

// updated is a view that is told of n instances, named "0" and so on, as a watch would.
func told(t *testing.T, n int) *view {
	t.Helper()
	set, err := newOptions(nil, []Option{WithGrace(10 * time.Second)})
	require.NoError(t, err)
	v := newView(nil, "s", &set)
	v.onStart()
	b := watch.Batch{Kind: watch.Snapshot, Revision: 100}
	for i := range n {
		b.Events = append(b.Events, here(strconv.Itoa(i), `{"host":"h","port":1}`))
	}
	v.onBatch(b)
	return v
}

func here(id, value string) watch.Event {
	return watch.Event{Type: watch.Put, Key: "services/s/instances/" + id, Value: []byte(value)}
}

func gone(id string) watch.Event {
	return watch.Event{Type: watch.Delete, Key: "services/s/instances/" + id}
}

func shown(v *view) (ids []string) {
	for _, i := range v.current.Load().list {
		ids = append(ids, i.ID)
	}
	return ids
}

func TestView_ExpiryDoesNotShowPartialList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := told(t, 3)
		v.onBatch(watch.Batch{Kind: watch.Live, Revision: 101, Events: []watch.Event{gone("0"), gone("1")}})
		assert.Equal(t, []string{"0", "1", "2"}, shown(v), "a sudden loss")
		v.onBatch(watch.Batch{Kind: watch.Resync, Revision: 110, More: true, Events: []watch.Event{here("5", `{"host":"h","port":1}`)}})
		time.Sleep(11 * time.Second)
		synctest.Wait()
		assert.Equal(t, []string{"0", "1", "2"}, shown(v), "not before all is known")
		v.onBatch(watch.Batch{Kind: watch.Resync, Revision: 110, Events: []watch.Event{here("6", `{"host":"h","port":1}`)}})
		assert.Equal(t, []string{"2", "5", "6"}, shown(v))
	})
}

func TestView_HeldInstancesExpireSeparately(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := told(t, 8)
		lose := func(ids ...string) {
			b := watch.Batch{Kind: watch.Live, Revision: v.revision + 1}
			for _, id := range ids {
				b.Events = append(b.Events, gone(id))
			}
			v.onBatch(b)
		}
		lose("0", "1", "2", "3", "4")
		for _, id := range []string{"5", "6", "7"} { // others are lost before the time of the first is up
			time.Sleep(3 * time.Second)
			lose(id)
		}
		assert.Equal(t, []string{"0", "1", "2", "3", "4", "5", "6", "7"}, shown(v))
		for _, left := range [][]string{{"5", "6", "7"}, {"6", "7"}, {"7"}, nil} {
			time.Sleep(1001 * time.Millisecond)
			synctest.Wait()
			assert.Equal(t, left, shown(v))
			time.Sleep(1999 * time.Millisecond)
		}
	})
}

func TestView_RestoredClusterKeepsLiveInstances(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := told(t, 4)
		v.onBatch(watch.Batch{Kind: watch.Resync, Revision: 40, Events: []watch.Event{gone("3"), here("2", `{"host":"old","port":1}`)}})
		assert.Equal(t, []string{"0", "1", "2", "3"}, shown(v), "one of four: but the history is another one")
		v.onBatch(watch.Batch{Kind: watch.Live, Revision: 41, Events: []watch.Event{here("3", `{"host":"h","port":3}`)}})
		time.Sleep(11 * time.Second)
		synctest.Wait()
		assert.Equal(t, []string{"0", "1", "2", "3"}, shown(v), "it has registered anew")
		v.onBatch(watch.Batch{Kind: watch.Live, Revision: 42, Events: []watch.Event{gone("3")}})
		assert.Equal(t, []string{"0", "1", "2"}, shown(v), "revisions go on from there")
	})
}

func TestView_DrainingInstancesAreNotHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := told(t, 4)
		for _, id := range []string{"0", "1", "2"} {
			v.onBatch(watch.Batch{Kind: watch.Live, Revision: 101, Events: []watch.Event{here(id, `{"host":"h","port":1,"status":"draining"}`)}})
		}
		v.onStart() // a watch that has begun anew tells everything
		v.onBatch(watch.Batch{Kind: watch.Snapshot, Revision: 120, Events: []watch.Event{here("3", `{"host":"h","port":1}`)}})
		assert.Equal(t, []string{"3"}, shown(v))
		v.onStart()
		v.onBatch(watch.Batch{Kind: watch.Snapshot, Revision: 121})
		assert.Equal(t, []string{"3"}, shown(v), "the last one, which said nothing")
		v.onStart()
		v.onBatch(watch.Batch{Kind: watch.Snapshot, Revision: 122, Events: []watch.Event{here("3", `{"host":`)}})
		assert.Equal(t, []string{"3"}, shown(v), "what was known of it stays")
		assert.Len(t, v.malformed, 1)
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Empty(t, shown(v), "it was held back, and a value that is of no use does not bring it back")
	})
}

// Whether a loss is sudden depends on how many instances there are, those that were held back included once they are back.
func TestView_CountsInstancesThatWereHeldBack(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]time.Duration{"and came back in time": time.Second, "and came back late": 11 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			v := told(t, 8)
			lost := []string{"0", "1", "2", "3", "4"}
			b := watch.Batch{Kind: watch.Live, Revision: 101}
			for _, id := range lost {
				b.Events = append(b.Events, gone(id))
			}
			v.onBatch(b)
			require.Len(t, shown(v), 8, "a sudden loss")
			time.Sleep(back)
			b = watch.Batch{Kind: watch.Live, Revision: 102}
			for _, id := range lost {
				b.Events = append(b.Events, here(id, `{"host":"h","port":1}`))
			}
			v.onBatch(b)
			require.Len(t, shown(v), 8)
			time.Sleep(time.Minute)
			v.onBatch(watch.Batch{Kind: watch.Live, Revision: 103, Events: []watch.Event{gone("0"), gone("5")}})
			assert.Equal(t, []string{"1", "2", "3", "4", "6", "7"}, shown(v), "%s: two of eight are no sudden loss", name)
		})
	}
}
