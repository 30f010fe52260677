package cache_test

import (
	"context"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

// answerEveryKey answers the read of any key with a value.
func answerEveryKey(op clientv3.Op) (clientv3.OpResponse, error) {
	const rev = 1 << 40
	_, then, _ := op.Txn()
	one := &mvccpb.KeyValue{Key: then[0].KeyBytes(), Value: []byte("v"), CreateRevision: 1, ModRevision: 1, Version: 1}
	resp := clientv3.TxnResponse{
		Header: &pb.ResponseHeader{Revision: rev}, Succeeded: true,
		Responses: []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{one}, Count: 1}}}},
	}
	return resp.OpResponse(), nil
}

// zipfKeys returns keys of a Zipf distribution whose most frequent keys change slowly.
func zipfKeys(seed uint64, skew float64) func() string {
	const keys, pace = 10_000, 500
	z := rand.NewZipf(rand.New(rand.NewPCG(seed, seed)), skew, 1, keys-1)
	n := uint64(0)
	return func() string {
		n++
		return strconv.FormatUint((z.Uint64()+n/pace)%keys, 10)
	}
}

func TestCache_HitRatioMatchesGolangLRU(t *testing.T) {
	t.Parallel()
	const size = 1000
	warm, operations, skews := 15_000, 60_000, []float64{1.1}
	if isLongRun() {
		warm, operations, skews = 50_000, 300_000, []float64{1.01, 1.1}
	}
	for _, skew := range skews {
		cli := etcdtest.Client(t)
		kvs := installFakeKV(cli)
		kvs.answer = func(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
			if isKeyRead(op) {
				return answerEveryKey(op)
			}
			return kvs.KV.Do(ctx, op)
		}
		// Nothing but the policy throws anything out, on a machine that is as slow as may be.
		c := openCache(t, parttest.New(t, cli, etcdtest.Prefix(t)), "dir", kv.String(),
			cache.WithMaxEntries(size), cache.WithTTL(time.Hour), cache.WithMaxStaleness(time.Hour))
		plain, err := lru.New[string, string](size)
		require.NoError(t, err)
		next := zipfKeys(7, skew)
		var before cache.Stats
		hits := 0
		for i := range warm + operations {
			if i == warm {
				before, hits = c.Stats(), 0
			}
			key := next()
			_, err := c.Get(t.Context(), key)
			require.NoError(t, err)
			if _, ok := plain.Get(key); ok {
				hits++
			} else {
				plain.Add(key, "v")
			}
		}
		ours := float64(c.Stats().Hits-before.Hits) / float64(operations)
		theirs := float64(hits) / float64(operations)
		t.Logf("skew %.2f: %.4f, golang-lru %.4f", skew, ours, theirs)
		assert.InDelta(t, theirs, ours, 0.003)
	}
}
