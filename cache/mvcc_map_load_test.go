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

func TestMVCCMap_InitialLoadEqualsSet(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		loaded, expected := newMVCCMap[int](), newMVCCMap[int]()
		loaded.startLoad()
		keys := 1 + rnd.IntN(60)
		for rev := range int64(rnd.IntN(120)) {
			key := strconv.Itoa(rnd.IntN(keys))
			e := kv.Entry[int]{Key: key, Value: rnd.Int(), ModRevision: rev + 1, CreateRevision: 1, Version: 1}
			var bad error
			switch rnd.IntN(5) {
			case 0:
				loaded.remove(key, rev+1)
				expected.remove(key, rev+1)
				continue
			case 1:
				e.Lease = clientv3.LeaseID(7)
			case 2:
				bad = errors.New("it does not decode")
			}
			loaded.set(newVersion(e, 0, bad))
			expected.set(newVersion(e, 0, bad))
			require.Nil(t, loaded.get(key), "seed %d: visible before the commit", seed)
		}
		for _, m := range []*mvccMap[int]{loaded, expected} {
			m.commit()
			m.trim()
		}
		require.Equal(t, expected.valid.Load(), loaded.valid.Load(), "seed %d", seed)
		require.Equal(t, expected.invalid.Load(), loaded.invalid.Load(), "seed %d", seed)
		for key := range keys {
			want, got := expected.get(strconv.Itoa(key)), loaded.get(strconv.Itoa(key))
			require.Equal(t, want == nil, got == nil, "seed %d, key %d", seed, key)
			if want != nil {
				require.Equal(t, want.entry(), got.entry(), "seed %d, key %d", seed, key)
				require.Equal(t, want.decodeErr(), got.decodeErr(), "seed %d, key %d", seed, key)
			}
		}
		assert.Nil(t, loaded.initial)
		assert.Empty(t, loaded.untrimmed, "a load leaves nothing to be trimmed")
	}
}
