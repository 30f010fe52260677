package kv_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// fakeBlockingKV is a KV before etcd that holds single operations up while it is down, so that
// those behind them must share.
type fakeBlockingKV struct {
	clientv3.KV

	up   chan struct{}
	held atomic.Int32
	drop bool // those that were held up
}

var errDropped = errors.New("dropped")

func (b *fakeBlockingKV) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	if held := b.held.Add(1); held <= kv.MaxDirectCalls {
		<-b.up
		if b.drop {
			return clientv3.OpResponse{}, errDropped
		}
	}
	return b.KV.Do(ctx, op)
}

// shared makes every call of ops share a transaction with the others, and returns what came of
// each. alone is called for those that keep the way busy meanwhile. over, where it is not nil,
// stands over the KV.
func shared(t *testing.T, next clientv3.KV, over func(clientv3.KV) clientv3.KV, alone clientv3.Op, ops ...clientv3.Op) []callResult {
	t.Helper()
	b := &fakeBlockingKV{KV: next, up: make(chan struct{})}
	below := kv.WithoutFlush(kv.Coalesce(b))
	k := below
	if over != nil {
		k = over(below)
	}
	var wg sync.WaitGroup
	for i := range kv.MaxDirectCalls {
		wg.Go(func() {
			_, err := k.Do(t.Context(), alone)
			assert.NoError(t, err)
		})
		require.Eventually(t, func() bool { return int(b.held.Load()) == i+1 }, 10*time.Second, 100*time.Microsecond)
	}
	out := make([]callResult, len(ops))
	for i, op := range ops {
		wg.Go(func() { out[i].OpResponse, out[i].err = k.Do(t.Context(), op) })
		require.Eventually(t, func() bool { return kv.WaitingCalls(below) == i+1 }, 10*time.Second, 100*time.Microsecond)
	}
	close(b.up)
	wg.Wait()
	return out
}

// What a call gets is what it gets alone, to the last field that does not depend on the time.
func TestCoalesce_ResponseEqualsDirectResponse(t *testing.T) {
	t.Parallel()
	rpcs := etcdtest.Counter(t)
	cli := rpcs.Client(t)
	lease, err := cli.Grant(t.Context(), 60)
	require.NoError(t, err)
	kinds := map[string][]clientv3.Op{
		"gets": {
			clientv3.OpGet("there"), clientv3.OpGet("leased"), clientv3.OpGet("absent"), clientv3.OpGet("there", clientv3.WithKeysOnly()),
			clientv3.OpGet("there", clientv3.WithCountOnly()), clientv3.OpGet("absent", clientv3.WithCountOnly()), clientv3.OpGet("empty"),
		},
		"puts": {
			clientv3.OpPut("there", "new"), clientv3.OpPut("leased", "new", clientv3.WithIgnoreLease(), clientv3.WithPrevKV()), clientv3.OpPut("absent", "new", clientv3.WithPrevKV()),
			clientv3.OpPut("empty", "", clientv3.WithIgnoreValue(), clientv3.WithLease(lease.ID)), clientv3.OpPut("other", "", clientv3.WithPrevKV()),
		},
		"deletes": {
			clientv3.OpDelete("there"), clientv3.OpDelete("leased", clientv3.WithPrevKV()), clientv3.OpDelete("absent"),
			clientv3.OpDelete("absent2", clientv3.WithPrevKV()), clientv3.OpDelete("empty"),
		},
	}
	// prepare makes a namespace in which everything has the same history.
	prepare := func(dir string) clientv3.KV {
		ns := kv.Namespace(cli, etcdtest.Prefix(t)+dir)
		for _, op := range []clientv3.Op{
			clientv3.OpPut("there", "1"), clientv3.OpPut("there", "2"), clientv3.OpPut("leased", "v", clientv3.WithLease(lease.ID)),
			clientv3.OpPut("empty", ""), clientv3.OpPut("other", "v"),
		} {
			_, err := ns.Do(t.Context(), op)
			require.NoError(t, err)
		}
		return ns
	}
	for name, ops := range kinds {
		one, many := prepare(name+"1"), prepare(name+"2")
		first, err := many.Get(t.Context(), "there")
		require.NoError(t, err)
		rpcs.Reset()
		busy := clientv3.OpGet("busy")
		if name != "gets" {
			busy = clientv3.OpDelete("busy")
		}
		if name == "puts" {
			busy = clientv3.OpPut("busy", "v")
		}
		got := shared(t, many, nil, busy, ops...)
		assert.Equal(t, 1, rpcs.Count("KV/Txn"), name)
		assert.Equal(t, 1+kv.MaxDirectCalls, rpcs.Total(), name)
		for i, op := range ops {
			want, err := one.Do(t.Context(), op)
			require.NoError(t, err)
			require.NoError(t, got[i].err)
			assert.Equal(t, plainly(want), plainly(got[i].OpResponse), "%s %d", name, i)
			assert.GreaterOrEqual(t, revisionOf(got[i].OpResponse), first.Header.Revision, "%s %d", name, i)
		}
	}
}

// plainly is a response without what depends on when it was made.
func plainly(r clientv3.OpResponse) map[string]any {
	switch {
	case r.Get() != nil:
		r := r.Get()
		out := map[string]any{"cluster": r.Header.ClusterId, "member": r.Header.MemberId, "term": r.Header.RaftTerm, "count": r.Count, "more": r.More, "n": len(r.Kvs)}
		for i, one := range r.Kvs {
			out[strconv.Itoa(i)] = fmt.Sprint(string(one.Key), "=", string(one.Value), one.Version, one.Lease)
		}
		return out
	case r.Put() != nil:
		r := r.Put()
		out := map[string]any{"cluster": r.Header.ClusterId, "member": r.Header.MemberId, "term": r.Header.RaftTerm, "prev": r.PrevKv != nil}
		if r.PrevKv != nil {
			out["was"] = fmt.Sprint(string(r.PrevKv.Key), "=", string(r.PrevKv.Value), r.PrevKv.Version, r.PrevKv.Lease)
		}
		return out
	}
	d := r.Del()
	out := map[string]any{"cluster": d.Header.ClusterId, "member": d.Header.MemberId, "term": d.Header.RaftTerm, "deleted": d.Deleted, "prev": len(d.PrevKvs)}
	for _, one := range d.PrevKvs {
		out["was"] = fmt.Sprint(string(one.Key), "=", string(one.Value), one.Version, one.Lease)
	}
	return out
}

func revisionOf(r clientv3.OpResponse) int64 {
	switch {
	case r.Get() != nil:
		return r.Get().Header.Revision
	case r.Put() != nil:
		return r.Put().Header.Revision
	}
	return r.Del().Header.Revision
}

func TestCoalesce_ExpiredLeaseFailsOnlyItsPut(t *testing.T) {
	t.Parallel()
	cli, home := etcdtest.Client(t), etcdtest.Prefix(t)
	var ops []clientv3.Op
	for i := range 10 {
		ops = append(ops, clientv3.OpPut(home+strconv.Itoa(i), "v"))
	}
	ops[3] = clientv3.OpPut(home+"3", "v", clientv3.WithLease(4711))
	ops[6] = clientv3.OpPut(home+"6", "", clientv3.WithIgnoreValue())
	for i, r := range shared(t, cli, nil, clientv3.OpPut(home+"busy", "v"), ops...) {
		switch i {
		case 3:
			assert.Equal(t, rpctypes.ErrLeaseNotFound, r.err)
		case 6:
			assert.Equal(t, rpctypes.ErrKeyNotFound, r.err)
		default:
			assert.NoError(t, r.err)
		}
	}
	assert.ElementsMatch(t, []string{"0", "1", "2", "4", "5", "7", "8", "9", "busy"}, present(t, cli, home))
}

func TestCoalesce_ForbiddenKeyFailsOnlyItsCall(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	etcdtest.EnableAuth(t, srv, etcdtest.User{Name: "ann", Password: "secret", Grants: []etcdtest.Grant{etcdtest.ReadWrite("hers/")}})
	cli := srv.Client(t, etcdtest.As("ann", "secret"))
	for _, of := range []func(string) clientv3.Op{getOf, putOf, delOf} {
		out := shared(t, cli, nil, of("hers/busy"), of("hers/a"), of("others/b"), of("hers/c"), of("hers/d"), of("hers/e"))
		for i, r := range out {
			if i == 1 {
				assert.Equal(t, rpctypes.ErrPermissionDenied, r.err)
			} else {
				assert.NoError(t, r.err)
			}
		}
	}
}

func TestCoalesce_WorksOverAndUnderNamespace(t *testing.T) {
	t.Parallel()
	for name, overs := range map[string]bool{"over": true, "under": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cli, home := etcdtest.Client(t), etcdtest.Prefix(t)
			next, over := kv.Namespace(cli, home), (func(clientv3.KV) clientv3.KV)(nil)
			if overs {
				next, over = cli.KV, func(k clientv3.KV) clientv3.KV { return kv.Namespace(k, home) }
			}
			var puts, gets []clientv3.Op
			for i := range 10 {
				puts, gets = append(puts, putOf(strconv.Itoa(i))), append(gets, getOf(strconv.Itoa(i)))
			}
			for _, r := range shared(t, next, over, putOf("busy"), puts...) {
				require.NoError(t, r.err)
			}
			assert.Len(t, present(t, cli, home), 11)
			for i, r := range shared(t, next, over, getOf("busy"), gets...) {
				require.NoError(t, r.err)
				assert.Equal(t, strconv.Itoa(i), string(r.Get().Kvs[0].Key))
			}
		})
	}
}

// Code that was written for client/v3 runs over a client whose KV is shared.
func TestCoalesce_SupportsConcurrencySTM(t *testing.T) {
	t.Parallel()
	cli, home := etcdtest.Client(t), etcdtest.Prefix(t)
	cli.KV = kv.Coalesce(cli.KV)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 5 {
				_, err := concurrency.NewSTM(cli, func(s concurrency.STM) error {
					n, _ := strconv.Atoi(s.Get(home + "n"))
					s.Put(home+"n", strconv.Itoa(n+1))
					return nil
				})
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	r, err := cli.Get(t.Context(), home+"n")
	require.NoError(t, err)
	assert.Equal(t, "80", string(r.Kvs[0].Value))
}

// Far fewer requests are sent than calls are made, and every call still has its own result.
func TestCoalesce_ManyCallersCostFewRequests(t *testing.T) {
	t.Parallel()
	rpcs := etcdtest.Counter(t)
	cli, home := rpcs.Client(t), etcdtest.Prefix(t)
	k := kv.Coalesce(cli.KV)
	const callers, rounds = 128, 20
	var wg sync.WaitGroup
	for me := range callers {
		wg.Go(func() {
			for n := range rounds {
				key, value := home+strconv.Itoa(me), strconv.Itoa(me)+" "+strconv.Itoa(n)
				p, err := k.Put(t.Context(), key, value, clientv3.WithPrevKV())
				if !assert.NoError(t, err) {
					return
				}
				if n > 0 {
					assert.Equal(t, strconv.Itoa(me)+" "+strconv.Itoa(n-1), string(p.PrevKv.Value))
				}
				g, err := k.Get(t.Context(), key)
				if !assert.NoError(t, err) {
					return
				}
				assert.Equal(t, value, string(g.Kvs[0].Value))
				assert.EqualValues(t, n+1, g.Kvs[0].Version)
				assert.Equal(t, p.Header.Revision, g.Kvs[0].ModRevision)
				assert.GreaterOrEqual(t, g.Header.Revision, p.Header.Revision)
			}
		})
	}
	wg.Wait()
	assert.Less(t, rpcs.Total(), 2*callers*rounds/4, "%v", rpcs.Counts())
}
