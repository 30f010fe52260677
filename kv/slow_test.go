package kv_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// simStore is a store over a simulated cluster with some keys, and a client of client/v3.
type simStore struct {
	*kv.Store

	cluster *simCluster
	raw     *clientv3.Client
	mod     int64 // the mod revision of key "k"
}

// newSimStore is to be called in a bubble.
func newSimStore(t *testing.T, members ...string) *simStore {
	t.Helper()
	c := newSimCluster(members...)
	c.rtt = time.Millisecond
	s := &simStore{cluster: c, raw: c.client(t.Context()), Store: etcdtest.Must(kv.New(c.client(t.Context())))}
	s.Simulate(simMembers{c})
	_, err := s.Put(t.Context(), "warm", nil, kv.WithOnce()) // there is a slot
	require.NoError(t, err)
	s.mod, err = s.Put(t.Context(), "k", []byte("old"))
	require.NoError(t, err)
	return s
}

// key is what the cluster holds under "k".
func (s *simStore) key() string {
	s.cluster.mu.Lock()
	defer s.cluster.mu.Unlock()
	state := s.cluster.at("k", s.cluster.rev)
	return fmt.Sprintf("%s, version %d", state.GetValue(), state.GetVersion())
}

// slowOps are calls of a store, and what they are in client/v3.
func slowOps() map[string]struct {
	store  func(ctx context.Context, s *simStore) error
	client func(ctx context.Context, s *simStore) error
} {
	type calls = struct {
		store  func(ctx context.Context, s *simStore) error
		client func(ctx context.Context, s *simStore) error
	}
	get := func(ctx context.Context, s *simStore) error { _, err := s.raw.Get(ctx, "k"); return err }
	put := func(ctx context.Context, s *simStore) error { _, err := s.raw.Put(ctx, "k", "new"); return err }
	txn := func(op clientv3.Op, cmps ...clientv3.Cmp) func(ctx context.Context, s *simStore) error {
		return func(ctx context.Context, s *simStore) error {
			if len(cmps) == 0 {
				cmps = []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision("k"), "=", s.mod)}
			}
			_, err := s.raw.Txn(ctx).If(cmps...).Then(op).Else(clientv3.OpGet("k")).Commit()
			return err
		}
	}
	update := func(opts ...kv.UpdateOption) func(ctx context.Context, s *simStore) error {
		return func(ctx context.Context, s *simStore) error {
			_, err := s.Update(ctx, "k", func(kv.Entry[[]byte]) ([]byte, error) { return []byte("new"), nil }, opts...)
			return err
		}
	}
	getAndTxn := func(ctx context.Context, s *simStore) error {
		if err := get(ctx, s); err != nil {
			return err
		}
		return txn(clientv3.OpPut("k", "new"))(ctx, s)
	}
	value := []byte("new")
	list := func(ctx context.Context, s *simStore) error {
		_, err := s.raw.Get(ctx, "d/", clientv3.WithPrefix())
		return err
	}
	return map[string]calls{
		"get":       {func(ctx context.Context, s *simStore) error { _, err := s.Get(ctx, "k"); return err }, get},
		"get stale": {func(ctx context.Context, s *simStore) error { _, err := s.GetStale(ctx, "k"); return err }, get},
		"count":     {func(ctx context.Context, s *simStore) error { _, err := s.Count(ctx, "d/"); return err }, get},
		"list": {
			func(ctx context.Context, s *simStore) error {
				for _, err := range s.List(ctx, "d/", kv.WithLimit(10)) {
					if err != nil {
						return err
					}
				}
				return nil
			}, list,
		},
		"get many": {
			func(ctx context.Context, s *simStore) error { _, _, err := s.GetMany(ctx, "k", "c"); return err },
			func(ctx context.Context, s *simStore) error {
				_, err := s.raw.Txn(ctx).Then(clientv3.OpGet("k"), clientv3.OpGet("c")).Commit()
				return err
			},
		},
		"batch once": {
			func(ctx context.Context, s *simStore) error {
				return errOf(s.Batch(ctx, kv.OpPut("k", value, kv.WithOnce())))
			}, put,
		},
		"delete prefix": {
			func(ctx context.Context, s *simStore) error { _, _, err := s.DeletePrefix(ctx, "d/"); return err },
			func(ctx context.Context, s *simStore) error {
				_, err := s.raw.Delete(ctx, "d/", clientv3.WithPrefix())
				return err
			},
		},
		"transact": {
			func(ctx context.Context, s *simStore) error {
				return errOf(s.Transact(ctx, func(_ context.Context, tx *kv.Tx) error {
					_, err := tx.Get("k")
					return errors.Join(err, tx.Put("k", value))
				}))
			}, getAndTxn,
		},
		"txn that reads": {
			func(ctx context.Context, s *simStore) error {
				_, err := s.Txn(ctx).Then(clientv3.OpGet("k")).Commit()
				return err
			}, get,
		},
		"put":      {func(ctx context.Context, s *simStore) error { return errOf(s.Put(ctx, "k", value)) }, put},
		"put once": {func(ctx context.Context, s *simStore) error { return errOf(s.Put(ctx, "k", value, kv.WithOnce())) }, put},
		"create": {
			func(ctx context.Context, s *simStore) error { return errOf(s.Create(ctx, "c", value)) },
			txn(clientv3.OpPut("c", "new"), clientv3.Compare(clientv3.CreateRevision("c"), "=", 0)),
		},
		"create once": {
			func(ctx context.Context, s *simStore) error { return errOf(s.Create(ctx, "c", value, kv.WithOnce())) },
			txn(clientv3.OpPut("c", "new"), clientv3.Compare(clientv3.CreateRevision("c"), "=", 0)),
		},
		"replace": {
			func(ctx context.Context, s *simStore) error { return errOf(s.Replace(ctx, "k", value, s.mod)) },
			txn(clientv3.OpPut("k", "new")),
		},
		"replace once": {
			func(ctx context.Context, s *simStore) error {
				return errOf(s.Replace(ctx, "k", value, s.mod, kv.WithOnce()))
			},
			txn(clientv3.OpPut("k", "new")),
		},
		"compare and swap": {
			func(ctx context.Context, s *simStore) error {
				return errOf(s.CompareAndSwap(ctx, "k", []byte("old"), value))
			},
			txn(clientv3.OpPut("k", "new"), clientv3.Compare(clientv3.Value("k"), "=", "old")),
		},
		"delete": {
			func(ctx context.Context, s *simStore) error { return errOf(s.Delete(ctx, "k")) },
			func(ctx context.Context, s *simStore) error { _, err := s.raw.Delete(ctx, "k"); return err },
		},
		"delete at": {
			func(ctx context.Context, s *simStore) error { return errOf(s.DeleteAt(ctx, "k", s.mod)) },
			txn(clientv3.OpDelete("k")),
		},
		"update":      {update(), getAndTxn},
		"update once": {update(kv.WithOnce()), getAndTxn},
	}
}

// Whatever client/v3 completes within a deadline, the store completes with the same outcome, and
// with at most one more request for each. Where client/v3 does not, neither does the store, and it
// says so in time.
func TestStore_MatchesClientV3WhenEtcdIsSlow(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	rtts := []time.Duration{10 * ms, 100 * ms, 250 * ms, 400 * ms, 700 * ms, 1100 * ms, 1900 * ms, 2400 * ms, 3000 * ms}
	deadlines := []time.Duration{25 * ms, 150 * ms, 350 * ms, 1000 * ms, 2300 * ms, 4000 * ms, 7000 * ms, 20_000 * ms}
	for name, op := range slowOps() {
		for _, members := range [][]string{{"a"}, {"a", "b", "c"}} {
			t.Run(fmt.Sprintf("%s, %d members", name, len(members)), func(t *testing.T) {
				t.Parallel()
				for _, rtt := range rtts {
					for _, deadline := range deadlines {
						synctest.Test(t, func(t *testing.T) {
							type result struct {
								err  error
								took time.Duration
								sent int
								key  string
							}
							try := func(f func(ctx context.Context, s *simStore) error) (r result) {
								s := newSimStore(t, members...)
								s.cluster.rtt = rtt
								before := s.cluster.sent()
								ctx, stop := context.WithTimeout(t.Context(), deadline)
								defer stop()
								began := time.Now()
								r.err = f(ctx, s)
								r.took = time.Since(began)
								r.sent = s.cluster.sent() - before
								time.Sleep(time.Minute) // what is under way arrives
								r.key = s.key()
								return r
							}
							theirs, ours := try(op.client), try(op.store)
							about := fmt.Sprintf("round trip %v, deadline %v", rtt, deadline)
							assert.Equal(t, theirs.key, ours.key, about)
							assert.LessOrEqual(t, ours.took, theirs.took, about)
							if len(members) == 1 {
								assert.Equal(t, theirs.sent, ours.sent, "%s: there is nowhere else to go", about)
							} else {
								assert.LessOrEqual(t, ours.sent, 2*theirs.sent, "%s: one more for each", about)
							}
							if theirs.err == nil {
								assert.NoError(t, ours.err, about)
								return
							}
							require.ErrorIs(t, ours.err, context.DeadlineExceeded, about)
							require.ErrorIs(t, ours.err, kv.ErrUnavailable, about)
							if theirs.key != "old, version 1" {
								assert.False(t, errs.NotApplied(ours.err), about)
							}
						})
					}
				}
			})
		}
	}
}

// The budget bounds what second attempts add when all members are slow.
func TestStore_AddsLittleLoadWhenAllMembersAreSlow(t *testing.T) {
	t.Parallel()
	for _, atOnce := range []int{1, 20, 100} {
		t.Run(strconv.Itoa(atOnce), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSimStore(t, "a", "b", "c")
				s.cluster.rtt = 3 * time.Second
				// Of the budget: second attempts at once, and calls for each further one.
				const reserve, share = 10, 10
				before := s.cluster.sent()
				calls := 0
				for range 1000 / atOnce {
					var wg sync.WaitGroup
					for range atOnce {
						wg.Go(func() {
							_, err := s.Get(t.Context(), "k")
							assert.NoError(t, err)
						})
					}
					wg.Wait()
					calls += atOnce
					assert.LessOrEqual(t, s.cluster.sent()-before, calls+reserve+calls/share+1)
				}
				t.Logf("%d calls, %d requests", calls, s.cluster.sent()-before)
				assert.Greater(t, s.cluster.sent()-before, calls+reserve, "there were second attempts")
			})
		})
	}
}
