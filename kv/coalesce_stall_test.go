package kv_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcdkit/etcdkit/kv"
)

// What waits leaves in the order in which it came, also when those that came back call again at
// once.
func TestCoalesce_NoCallStarves(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		ctx, stop := context.WithCancel(t.Context())
		s.before = func(context.Context, proto.Message) error { time.Sleep(time.Millisecond); return nil }
		done := make(chan int, 300)
		for i := range 300 {
			go func() {
				n := 0
				for ; ctx.Err() == nil; n++ {
					if _, err := k.Put(context.WithoutCancel(ctx), fmt.Sprintf("k%d", i%100), "v"); err != nil {
						t.Error(err)
					}
				}
				done <- n
			}()
		}
		time.Sleep(time.Second)
		stop()
		least, most := 1<<30, 0
		for range 300 {
			n := <-done
			least, most = min(least, n), max(most, n)
		}
		assert.Greater(t, least, 100)
		assert.Less(t, most, 3*least)
	})
}

// A request that hangs must not hold up those that could be answered.
func TestCoalesce_HangingCallsDelayOthersBriefly(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		clearUp := blockDirectCalls(t, s, k, getOf)
		began := time.Now()
		require.NoError(t, (<-asyncDo(t.Context(), k, getOf("a"))).err)
		assert.Equal(t, kv.MaxBatchWait, time.Since(began))
		for range 100 {
			require.NoError(t, (<-asyncDo(t.Context(), k, getOf("a"))).err)
		}
		assert.Equal(t, kv.MaxBatchWait, time.Since(began), "they are not waited for again")
		clearUp()
	})
}

func TestCoalesce_HangingTransactionDelaysOthersBriefly(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		hold := make(chan struct{})
		s.before = func(_ context.Context, m proto.Message) error {
			if sizeOf(m) == 10 {
				<-hold
			}
			return nil
		}
		clearUp := blockDirectCalls(t, s, k, getOf)
		var stuck []<-chan callResult
		for i := range 10 {
			stuck = append(stuck, asyncDo(t.Context(), k, getOf("k"+strconv.Itoa(i))))
		}
		clearUp()
		began := time.Now()
		var calls []<-chan callResult
		for i := range 20 {
			calls = append(calls, asyncDo(t.Context(), k, getOf("k"+strconv.Itoa(i))))
		}
		for _, c := range calls {
			require.NoError(t, (<-c).err)
		}
		assert.Equal(t, kv.MaxBatchWait, time.Since(began))
		assert.Equal(t, []int{10, 20}, s.asked())
		close(hold)
		for _, c := range stuck {
			require.NoError(t, (<-c).err)
		}
	})
}

// Callers that come and give up must not put off what the others wait for.
func TestCoalesce_CanceledCallsDoNotDelayOthers(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, s *fakeKVServer, k clientv3.KV) {
		clearUp := blockDirectCalls(t, s, k, getOf)
		began := time.Now()
		patient := asyncDo(t.Context(), k, getOf("a"))
		for i := range 20 {
			ctx, stop := context.WithTimeout(t.Context(), kv.MaxBatchWait/20)
			<-asyncDo(ctx, k, getOf("k"+strconv.Itoa(i)))
			stop()
		}
		require.NoError(t, (<-patient).err)
		assert.LessOrEqual(t, time.Since(began), kv.MaxBatchWait)
		clearUp()
	})
}
