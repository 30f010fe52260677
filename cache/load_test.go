package cache

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/kv"
)

func TestALoadEndsAsTheSameStepsWouldWithoutIt(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		loaded, stepped := newTable[int](), newTable[int]()
		loaded.begin()
		keys := 1 + rnd.IntN(60)
		for rev := range int64(rnd.IntN(120)) {
			key := strconv.Itoa(rnd.IntN(keys))
			e := kv.Entry[int]{Key: key, Value: rnd.Int(), ModRevision: rev + 1, CreateRevision: 1, Version: 1}
			var bad error
			switch rnd.IntN(5) {
			case 0:
				loaded.remove(key, rev+1)
				stepped.remove(key, rev+1)
				continue
			case 1:
				e.Lease = clientv3.LeaseID(7)
			case 2:
				bad = errors.New("it does not decode")
			}
			loaded.set(newNode(e, 0, bad))
			stepped.set(newNode(e, 0, bad))
			require.Nil(t, loaded.get(key), "seed %d: it is there before the step is taken", seed)
		}
		for _, tab := range []*table[int]{loaded, stepped} {
			tab.commit()
			tab.cut()
		}
		require.Equal(t, stepped.goods.Load(), loaded.goods.Load(), "seed %d", seed)
		require.Equal(t, stepped.bads.Load(), loaded.bads.Load(), "seed %d", seed)
		for key := range keys {
			want, got := stepped.get(strconv.Itoa(key)), loaded.get(strconv.Itoa(key))
			require.Equal(t, want == nil, got == nil, "seed %d, key %d", seed, key)
			if want != nil {
				require.Equal(t, want.entry(), got.entry(), "seed %d, key %d", seed, key)
				require.Equal(t, want.badness(), got.badness(), "seed %d, key %d", seed, key)
			}
		}
		assert.Nil(t, loaded.loading)
		assert.Empty(t, loaded.dirty, "a load leaves nothing to be cut off")
	}
}
