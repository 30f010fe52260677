package discovery_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/watch"
)

func TestView_ShowsWhatAnyChangesAddUpTo(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		s, apply := discovery.NewView("s")
		picker := s.Picker(discovery.RoundRobin())
		want := map[string]int{} // ports by ID
		for rev := int64(1); rev < 60; rev++ {
			b := watch.Batch{Revision: rev, More: rnd.IntN(4) == 0}
			for range rnd.IntN(5) {
				id := strconv.Itoa(rnd.IntN(12))
				e := watch.Event{Type: watch.Delete, Key: "services/s/instances/" + id}
				delete(want, id)
				if rnd.IntN(3) > 0 {
					want[id] = 1 + rnd.IntN(3) // often the same again
					e.Type, e.Value = watch.Put, fmt.Appendf(nil, `{"host":"h","port":%d}`, want[id])
				}
				b.Events = append(b.Events, e)
			}
			apply(b)
			if b.More {
				continue
			}
			got := map[string]int{}
			list := s.Instances()
			for _, i := range list {
				got[i.ID] = i.Port
			}
			require.Equal(t, want, got, "seed %d, revision %d", seed, rev)
			require.Equal(t, slices.Sorted(maps.Keys(want)), append([]string(nil), instanceIDs(list)...), "seed %d, revision %d", seed, rev)
			picked := map[string]int{}
			for range want {
				k, err := picker.Pick()
				require.NoError(t, err)
				picked[k.Instance.ID] = k.Instance.Port
				k.Done(nil)
			}
			require.Equal(t, want, picked, "seed %d, revision %d", seed, rev)
		}
	}
}
