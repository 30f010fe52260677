package integration_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/kv"
)

const (
	linearizable = "linearizable read of a cached key"
	openFirstGet = "open, first Get, close"
	transaction  = "transaction over 2 of 4 keys"
)

// requestTable compares calls by as many goroutines of one client.
func requestTable() table {
	tab := table{
		id: "requests", title: "Requests",
		text: "One operation is one call; N goroutines share a client and call all the time. The peer is client/v3, with the calls that " +
			"one would make there: its Get for linearizable reads of a cached key, its `concurrency.STM` for updates and transactions, one Put for each key of a batch. " +
			"Conflicts are how often the function of a transaction ran again. *BatchEach*: 200,000 keys in transactions of 128, eight at " +
			"once; the peer is the same call with one at a time.",
		columns: slices.Insert(standardColumns(), 4, column{"conflicts", both("conflicts")}),
	}
	for _, n := range []int{1, 16, 256} {
		most := map[int]float64{1: 1.02, 16: 1.05, 256: 1.08}[n]
		tab.scenarios = append(tab.scenarios, getAndPut("Get", n, most), getAndPut("Put", n, most))
	}
	for _, n := range []int{1, 16, 256} {
		tab.scenarios = append(tab.scenarios, linearizableRead(n))
	}
	tab.scenarios = append(tab.scenarios, openAndGet(), updates(), transactions(), coalescedPuts(), batch(),
		batchEach("key of a BatchEach", 0), batchEach("key of a BatchEach, etcd 5 ms away", 5*time.Millisecond), list())
	return tab
}

// call is one way to do something, for the i-th time.
type call func(ctx context.Context, i int) error

// alternate measures two ways in short turns, for ratios close to 1. ours is called first in every
// other turn.
func (m *meter) alternate(goroutines, calls int, ours, theirs call) {
	m.Helper()
	peer := m.peer()
	crowd := func(do call, n int) int {
		parallel(m, goroutines, n, func(i int) error { return do(m.Context(), i) })
		return n
	}
	crowd(ours, max(goroutines, calls/10)) // opens what is opened once
	crowd(theirs, max(goroutines, calls/10))
	for i := range size(m, 2, 2, 6) {
		turns := []func(){
			func() { m.measure(func() int { return crowd(ours, calls) }) },
			func() { peer.measure(func() int { return crowd(theirs, calls) }) },
		}
		turns[i%2]()
		turns[1-i%2]()
	}
}

// peer returns a meter of the other side, for a turn that measures both.
func (m *meter) peer() *meter {
	other := m.in(m.name, m.n)
	other.ours = !m.ours
	return other
}

// bothSides returns a scenario whose turns measure both sides.
func bothSides(name string, n int, turn side, limits ...limit) scenario {
	return scenario{name: name, n: n, ours: turn, limits: limits}
}

func getAndPut(op string, n int, most float64) scenario {
	s := bothSides(op, n, func(m *meter) {
		c, cli := m.open(), m.client()
		const key, value = "requests/one", "a value of a usual length"
		_, err := cli.Put(m.Context(), key, value)
		require.NoError(m, err)
		ours := func(ctx context.Context, _ int) error { _, err := c.KV().Get(ctx, key); return err }
		theirs := func(ctx context.Context, _ int) error { _, err := cli.Get(ctx, key); return err }
		if op == "Put" {
			ours = func(ctx context.Context, _ int) error { _, err := c.KV().Put(ctx, key, []byte(value)); return err }
			theirs = func(ctx context.Context, _ int) error { _, err := cli.Put(ctx, key, value); return err }
		}
		m.alternate(n, size(m, 200, 500+8*n, 2000+20*n), ours, theirs)
	}, limit{Metric: "time", Of: "ratio", Most: most})
	if n == 1 {
		s.counts = []string{"rpcs", "messages", "allocs"}
	}
	return s
}

func linearizableRead(n int) scenario {
	return bothSides(linearizable, n, func(m *meter) {
		c, cli := m.open(), m.client()
		_, err := cli.Put(m.Context(), "dir/one", "value")
		require.NoError(m, err)
		cached, err := cache.Open(m.Context(), c, "dir", kv.String())
		require.NoError(m, err)
		m.Cleanup(func() { assert.NoError(m, cached.Close()) })
		m.alternate(n, size(m, 200, 500+8*n, 2000+20*n),
			func(ctx context.Context, _ int) error { _, err := cached.GetLinearizable(ctx, "one"); return err },
			func(ctx context.Context, _ int) error { _, err := cli.Get(ctx, "dir/one"); return err })
	})
}

// openAndGet is the start of a process.
func openAndGet() scenario {
	s := bothSides(openFirstGet, 0, func(m *meter) {
		cfg := clientv3.Config{Endpoints: m.server().Endpoints()}
		m.rpcs.Option(&cfg)
		m.alternate(1, size(m, 10, 10, 40),
			func(ctx context.Context, _ int) error {
				c, err := etcdkit.Open(ctx, etcdkit.Config{Endpoints: cfg.Endpoints}, etcdkit.WithDialOptions(m.rpcs.DialOption()))
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = c.KV().Exists(ctx, "k")
				return err
			},
			func(ctx context.Context, _ int) error {
				c, err := clientv3.New(cfg)
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = c.Get(ctx, "k", clientv3.WithKeysOnly())
				return err
			})
	})
	s.counts = []string{"rpcs"}
	return s
}

func increment(cur kv.Entry[[]byte]) ([]byte, error) {
	n, err := strconv.Atoi(string(cur.Value))
	return []byte(strconv.Itoa(n + 1)), err
}

// updates has goroutines of one client increment one key.
func updates() scenario {
	return bothSides("update of one key", 32, func(m *meter) {
		c, cli := m.open(), m.client()
		for _, key := range []string{"ours", "theirs"} {
			_, err := cli.Put(m.Context(), key, "0")
			require.NoError(m, err)
		}
		m.alternate(32, size(m, 160, 320, 960),
			func(ctx context.Context, _ int) error { _, err := c.KV().Update(ctx, "ours", increment); return err },
			func(context.Context, int) error {
				_, err := concurrency.NewSTM(cli, func(stm concurrency.STM) error {
					n, err := strconv.Atoi(stm.Get("theirs"))
					stm.Put("theirs", strconv.Itoa(n+1))
					return err
				})
				return err
			})
	})
}

// transactions has 16 goroutines of one client move amounts between two of 4 keys.
func transactions() scenario {
	const keys, goroutines = 4, 16
	pair := func(i int) (from, to string) {
		return strconv.Itoa(i % keys), strconv.Itoa((i + 1 + i/keys%(keys-1)) % keys)
	}
	fill := func(m *meter, cli *clientv3.Client, dir string) {
		for i := range keys {
			_, err := cli.Put(m.Context(), dir+strconv.Itoa(i), "1000")
			require.NoError(m, err)
		}
	}
	checkSum := func(m *meter, cli *clientv3.Client, dir string) {
		resp, err := cli.Get(m.Context(), dir, clientv3.WithPrefix())
		require.NoError(m, err)
		sum := 0
		for _, pair := range resp.Kvs {
			n, err := strconv.Atoi(string(pair.Value))
			require.NoError(m, err)
			sum += n
		}
		require.Equal(m, keys*1000, sum)
	}
	return bothSides(transaction, goroutines, func(m *meter) {
		c, cli := m.open(), m.client()
		fill(m, cli, "ours/")
		fill(m, cli, "theirs/")
		accounts := kv.NewTyped(c.KV(), "ours", kv.JSON[int]())
		var calls, attempts [2]atomic.Int64 // ours, theirs
		m.alternate(goroutines, size(m, 160, 320, 640),
			func(ctx context.Context, i int) error {
				calls[0].Add(1)
				from, to := pair(i)
				_, err := c.KV().Transact(ctx, func(_ context.Context, tx *kv.Tx) error {
					attempts[0].Add(1)
					both, err := accounts.In(tx).GetMany(from, to)
					if err != nil {
						return err
					}
					if err := accounts.In(tx).Put(from, both[from].Value-1); err != nil {
						return err
					}
					return accounts.In(tx).Put(to, both[to].Value+1)
				})
				return err
			},
			func(_ context.Context, i int) error {
				calls[1].Add(1)
				from, to := pair(i)
				_, err := concurrency.NewSTM(cli, func(stm concurrency.STM) error {
					attempts[1].Add(1)
					x, err := strconv.Atoi(stm.Get("theirs/" + from))
					if err != nil {
						return err
					}
					y, err := strconv.Atoi(stm.Get("theirs/" + to))
					if err != nil {
						return err
					}
					stm.Put("theirs/"+from, strconv.Itoa(x-1))
					stm.Put("theirs/"+to, strconv.Itoa(y+1))
					return nil
				})
				return err
			})
		checkSum(m, cli, "ours/")
		checkSum(m, cli, "theirs/")
		for i, side := range []*meter{m, m.peer()} {
			side.record("conflicts", float64(attempts[i].Load()-calls[i].Load())/float64(calls[i].Load()))
		}
	}, limit{Metric: "time", Of: "ratio", Most: 0.6})
}

func coalescedPuts() scenario {
	return bothSides("Put through kv.Coalesce", 256, func(m *meter) {
		cli := m.client()
		shared := kv.Coalesce(m.client().KV)
		put := func(to clientv3.KV) call {
			return func(ctx context.Context, i int) error {
				_, err := to.Put(ctx, fmt.Sprintf("puts/%06d", i%2048), "a value of a usual length")
				return err
			}
		}
		m.alternate(256, size(m, 512, 4096, 16_384), put(shared), put(cli.KV))
	})
}

// batch writes 128 keys.
func batch() scenario {
	s := bothSides("key of a Batch of 128", 0, func(m *meter) {
		const keys = 128
		c, cli := m.open(), m.client()
		var ops []kv.Op
		for i := range keys {
			ops = append(ops, kv.OpPut(fmt.Sprintf("many/%04d", i), []byte("value")))
		}
		peer := m.peer()
		for range size(m, 1, 6, 12) {
			m.measure(func() int {
				for range 10 {
					_, err := c.KV().Batch(m.Context(), ops...)
					require.NoError(m, err)
				}
				return 10 * keys
			})
			peer.measure(func() int {
				for i := range 2 * keys {
					_, err := cli.Put(m.Context(), fmt.Sprintf("many/%04d", i%keys), "value")
					require.NoError(m, err)
				}
				return 2 * keys
			})
		}
	})
	s.counts = []string{"rpcs", "allocs"}
	return s
}

// batchEach writes 200,000 keys of 100 bytes, several transactions at once.
func batchEach(name string, away time.Duration) scenario {
	const keys = 200_000
	turn := func(m *meter) {
		inFlight := 1
		if m.ours {
			inFlight = 8
		}
		proxy := m.server().Proxy(m)
		proxy.Delay(away / 2)
		c := m.openAt(proxy.Endpoints())
		ops := make([]kv.Op, keys)
		for i := range ops {
			ops[i] = kv.OpPut(fmt.Sprintf("many/%07d", i), make([]byte, 100))
		}
		m.measure(func() int {
			_, err := c.KV().BatchEach(m.Context(), ops, kv.WithInFlight(inFlight))
			require.NoError(m, err)
			return keys
		})
	}
	return scenario{
		name: name, n: keys, ours: turn, theirs: turn, fullOnly: true,
		limits: []limit{{Metric: "time", Of: "ratio", Most: 0.7}},
	}
}

// list reads 10,000 keys.
func list() scenario {
	const keys = 10_000
	return bothSides("List of 10,000 keys", 0, func(m *meter) {
		c, cli := m.open(), m.client()
		putMany(m, cli, "dir/", keys)
		m.alternate(1, size(m, 2, 10, 40),
			func(ctx context.Context, _ int) error {
				n := 0
				for _, err := range c.KV().List(ctx, "dir/") {
					if err != nil {
						return err
					}
					n++
				}
				return wantKeys(keys, n)
			},
			func(ctx context.Context, _ int) error {
				resp, err := cli.Get(ctx, "dir/", clientv3.WithPrefix())
				if err != nil {
					return err
				}
				return wantKeys(keys, len(resp.Kvs))
			})
	})
}

func wantKeys(want, got int) error {
	if got != want {
		return fmt.Errorf("%d keys instead of %d", got, want)
	}
	return nil
}

// putMany puts n keys below dir, 100 in a transaction, and returns the first revision and the last.
func putMany(m *meter, cli *clientv3.Client, dir string, n int) (from, to int64) {
	m.Helper()
	for i := 0; i < n; i += 100 {
		ops := make([]clientv3.Op, 0, 100)
		for j := i; j < min(i+100, n); j++ {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("%ssome/longer/key/%06d", dir, j), "value"))
		}
		resp, err := cli.Txn(m.Context()).Then(ops...).Commit()
		require.NoError(m, err)
		if to = resp.Header.Revision; from == 0 {
			from = to
		}
	}
	return from, to
}
