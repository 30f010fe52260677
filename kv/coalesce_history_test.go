package kv_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// Each key is a register with one writer and several readers. The history is linearizable if and
// only if each read returns a value that is not older than the last write and the last read that
// ended before the read started, and not newer than the last write that started before it ended.
func TestCoalesce_ConcurrentCallsAreLinearizable(t *testing.T) {
	t.Parallel()
	cli, home := etcdtest.Client(t), etcdtest.Prefix(t)
	k := kv.Coalesce(cli.KV)
	const registers, readers, writes = 12, 5, 100
	var wg sync.WaitGroup
	for i := range registers {
		key := home + strconv.Itoa(i)
		// The number of writes that have started, and the newest value that a completed call wrote
		// or read.
		var begun, known atomic.Int64
		var over atomic.Bool
		wg.Go(func() {
			defer over.Store(true)
			for n := range int64(writes) {
				begun.Store(n + 1)
				if n%10 == 9 { // also what is not shared
					_, err := k.Txn(t.Context()).Then(clientv3.OpPut(key, strconv.FormatInt(n+1, 10))).Commit()
					assert.NoError(t, err)
				} else if _, err := k.Put(t.Context(), key, strconv.FormatInt(n+1, 10)); !assert.NoError(t, err) {
					return
				}
				raise(&known, n+1)
			}
		})
		for range readers {
			wg.Go(func() {
				for !over.Load() {
					least := known.Load()
					r, err := k.Get(t.Context(), key)
					most := begun.Load()
					if !assert.NoError(t, err) {
						return
					}
					var n int64
					if len(r.Kvs) > 0 {
						n, _ = strconv.ParseInt(string(r.Kvs[0].Value), 10, 64)
					}
					if !assert.GreaterOrEqual(t, n, least) || !assert.LessOrEqual(t, n, most) {
						return
					}
					raise(&known, n)
				}
			})
		}
	}
	wg.Wait()
}

// raise makes a at least n.
func raise(a *atomic.Int64, n int64) {
	for {
		old := a.Load()
		if old >= n || a.CompareAndSwap(old, n) {
			return
		}
	}
}

// Random calls of all kinds, with contexts that end at any time: every put is applied once or not
// at all, and what was reported as applied is there.
func TestCoalesce_CancelNeverLosesOrRepeatsWrites(t *testing.T) {
	t.Parallel()
	cli, home := etcdtest.Client(t), etcdtest.Prefix(t)
	k := kv.Coalesce(cli.KV)
	var wg sync.WaitGroup
	for me := range 64 {
		wg.Go(func() {
			key := home + strconv.Itoa(me)
			applied, doubtful := int64(0), int64(0)
			for range 50 {
				ctx, stop := context.WithTimeout(t.Context(), time.Duration(rand.IntN(8000))*time.Microsecond)
				_, err := k.Put(ctx, key, strings.Repeat("v", rand.IntN(1000)))
				switch {
				case err == nil:
					applied++
				// etcd returns ErrTimeout if its copy of the deadline ends first.
				case ctx.Err() == nil && !errors.Is(err, rpctypes.ErrTimeout):
					t.Error(err)
				case !errs.NotApplied(err):
					doubtful++
				}
				stop()
			}
			r, err := cli.Get(t.Context(), key)
			if !assert.NoError(t, err) {
				return
			}
			var version int64
			if len(r.Kvs) > 0 {
				version = r.Kvs[0].Version
			}
			assert.GreaterOrEqual(t, version, applied)
			assert.LessOrEqual(t, version, applied+doubtful)
		})
	}
	wg.Wait()
}
