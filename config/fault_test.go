package config_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

// fiveFields is a struct of five keys that are always written together.
type fiveFields struct{ A, B, C, D, E int }

func (f fiveFields) isConsistent() bool { return f == fiveFields{f.A, f.A, f.A, f.A, f.A} }

// repeat calls f until done is closed, and yields the processor now and then.
func repeat(done <-chan struct{}, f func()) {
	pause := time.NewTicker(time.Millisecond)
	defer pause.Stop()
	for {
		for range 50 {
			f()
		}
		select {
		case <-done:
			return
		case <-pause.C:
		}
	}
}

// writeFive changes five keys in one transaction: all are n, or, now and then, gone.
func writeFive(ctx context.Context, store *kv.Store, n int) (int64, error) {
	ops := make([]clientv3.Op, 0, 5)
	for _, key := range []string{"a", "b", "c", "d", "e"} {
		if n%10 == 0 {
			ops = append(ops, clientv3.OpDelete("conf/five/"+key))
		} else {
			ops = append(ops, clientv3.OpPut("conf/five/"+key, strconv.Itoa(n)))
		}
	}
	resp, err := store.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return 0, err
	}
	return resp.Header.GetRevision(), nil
}

func TestBindDir_TransactionIsOneChange(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	v := bindDir(t, s, "five", config.WithValidate(func(f fiveFields) error {
		if !f.isConsistent() {
			return fmt.Errorf("a mixture: %v", f)
		}
		return nil
	}))
	done := make(chan struct{})
	var readers sync.WaitGroup
	var loads atomic.Int64
	for range 4 {
		readers.Go(func() {
			last := 0
			repeat(done, func() {
				f := v.Load()
				if !f.isConsistent() || (f.A != 0 && f.A < last) {
					t.Errorf("%v after %d", f, last)
				}
				last = max(last, f.A)
				loads.Add(1)
			})
		})
	}
	readers.Go(func() {
		repeat(done, func() {
			values := contents(s)
			assert.Contains(t, []int{0, 5}, len(values))
			for _, value := range values {
				assert.Equal(t, values["five/a"], value)
			}
		})
	})
	followed := atomic.Int64{}
	v.Follow(func(f fiveFields) {
		assert.True(t, f.isConsistent(), "%v", f)
		followed.Add(1)
	})
	before := s.Stats().Decodes
	n := shortOrLong(1000, 10000)
	var rev int64
	for i := range n {
		var err error
		rev, err = writeFive(t.Context(), p.KV(), i+1)
		require.NoError(t, err)
	}
	waitForRevision(t, s, rev)
	close(done)
	readers.Wait()
	assert.Zero(t, s.Stats().BadValues, "validation has seen no mixture either")
	assert.LessOrEqual(t, s.Stats().Decodes-before, uint64(n), "one decode for each change at the most")
	assert.Positive(t, loads.Load())
	assert.Positive(t, followed.Load())
}

func TestBind_LoadNeverReturnsBadValue(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "limits", `{"text":"ok","days":[0]}`)
	s := open(t, p)
	v := bind(t, s, "limits", config.WithValidate(func(b banner) error {
		if b.Text != "ok" {
			return errors.New("text is not ok")
		}
		return nil
	}))
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			last := 0
			repeat(done, func() {
				b := v.Load()
				if b.Text != "ok" || len(b.Days) != 1 || b.Days[0] < last {
					t.Errorf("%v after %d", b, last)
					return
				}
				last = b.Days[0]
			})
		})
	}
	bad := []string{`{"text":"ok"`, `{"text":7}`, `{"text":"bad"}`, ``, `null null`}
	var rev int64
	for i := range 1000 {
		value := fmt.Sprintf(`{"text":"ok","days":[%d]}`, i)
		if i%2 == 1 {
			value = bad[i/2%len(bad)]
		}
		rev = put(t, p, "limits", value)
	}
	waitForRevision(t, s, rev)
	require.ErrorIs(t, v.Err(), kv.ErrDecode)
	close(done)
	readers.Wait()
	assert.Equal(t, 998, v.Load().Days[0])
	assert.Positive(t, s.Stats().BadValues)
}

func TestBind_LastValueWinsWhileConnectionsBreak(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	writer := parttest.New(t, srv.Client(t), "app")
	const sources = 10
	values := make([]*config.Value[int], sources)
	all := make([]*config.Source, sources)
	for i := range sources {
		all[i] = open(t, parttest.New(t, etcdtest.NewClient(t, proxy.Endpoints()), "app"))
		values[i] = bind(t, all[i], "rate", config.WithDefault(0))
		last := 0
		values[i].Follow(func(n int) {
			assert.GreaterOrEqual(t, n, last, "it never goes back")
			last = n
		})
	}
	const updates = 100
	tick := time.NewTicker(time.Second / updates)
	defer tick.Stop()
	for i := range updates {
		<-tick.C
		put(t, writer, "rate", strconv.Itoa(i+1))
		if i%(updates/10) == 5 {
			proxy.Cut()
		}
	}
	ended := time.Now()
	for i, v := range values {
		require.Eventually(t, func() bool { return v.Load() == updates }, parttest.Timeout, time.Millisecond, "source %d: %v", i, all[i].Status())
	}
	t.Logf("all of %d sources had the last value %v after it was put", sources, time.Since(ended))
}

func TestSource_NoticesPartitionedMember(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := srv.Proxy(t)
	keepalive := func(c *clientv3.Config) { c.DialKeepAliveTime, c.DialKeepAliveTimeout = 10*time.Second, 4*time.Second }
	p := parttest.New(t, etcdtest.NewClient(t, proxy.Endpoints(), keepalive), "app")
	s := open(t, p)
	v := bind(t, s, "rate", config.WithDefault(1))
	proxy.Blackhole(true, true)
	cut := time.Now()
	require.Eventually(t, func() bool { return s.Status().Age > 3*time.Second }, parttest.Timeout, 5*time.Millisecond, "age grows when nothing is heard")
	assert.Less(t, time.Since(cut), 10*time.Second)
	assert.Equal(t, config.Live, s.Status().Origin)
	assert.Equal(t, 1, v.Load(), "and reads go on")
	require.Eventually(t, func() bool { return s.Status().Err != nil }, parttest.Timeout, 5*time.Millisecond)
	proxy.Heal()
	require.Eventually(t, func() bool { return s.Status().Age < 2*time.Second && s.Status().Err == nil }, parttest.Timeout, 5*time.Millisecond)
}

func TestSet_ReturnsWhenLoadShowsValue(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	var stale atomic.Int64
	var writers sync.WaitGroup
	for w := range 4 {
		key := "k" + strconv.Itoa(w)
		v := bind(t, s, key, config.WithDefault(-1))
		writers.Go(func() {
			for i := range shortOrLong(500, 2500) {
				if _, err := config.Set(t.Context(), s, key, i); !assert.NoError(t, err) {
					return
				}
				if config.GetOr(s, key, -1) != i || v.Load() != i {
					stale.Add(1)
				}
			}
		})
	}
	writers.Wait()
	assert.Zero(t, stale.Load())
}

func TestSource_FollowsWipedCluster(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	p := parttest.New(t, srv.Client(t), "app")
	for i := range 20 {
		put(t, p, "rate", strconv.Itoa(i))
	}
	put(t, p, "old", "x")
	s := open(t, p)
	rate := bind[int](t, s, "rate")
	srv.Wipe()
	put(t, p, "rate", "100")
	require.Eventually(t, func() bool { return rate.Load() == 100 }, parttest.Timeout, time.Millisecond)
	require.Eventually(t, func() bool { return assert.ObjectsAreEqual(map[string]string{"rate": "100"}, contents(s)) }, parttest.Timeout, time.Millisecond)
}

func TestBind_OversizedValueIsBadValue(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, etcdtest.WithFlags("--max-request-bytes=4194304"))
	cli := srv.Client(t, func(c *clientv3.Config) { c.MaxCallSendMsgSize = 8 << 20 })
	p := parttest.New(t, cli, "app")
	put(t, p, "text", "small")
	put(t, p, "other", "1")
	state := filepath.Join(t.TempDir(), "state")
	s := open(t, p, config.WithStateFile(state))
	text := bind[string](t, s, "text")
	other := bind[int](t, s, "other")
	_, err := config.Set(t.Context(), s, "text", strings.Repeat("x", 2<<20))
	require.ErrorIs(t, err, kv.ErrTooLarge, "it is refused before it is sent")
	resp, err := cli.Put(t.Context(), "app/conf/text", strings.Repeat("x", 2<<20))
	require.NoError(t, err)
	waitForRevision(t, s, resp.Header.Revision)
	require.ErrorIs(t, text.Err(), kv.ErrTooLarge)
	assert.Equal(t, "small", text.Load())
	_, err = config.Get[string](s, "text")
	require.ErrorIs(t, err, kv.ErrTooLarge)
	assert.Equal(t, "y", config.GetOr(s, "text", "y"))
	waitForRevision(t, s, put(t, p, "other", "2"))
	assert.Equal(t, 2, other.Load(), "other updates go on")
	waitForRevision(t, s, put(t, p, "text", "small again"))
	assert.Equal(t, "small again", text.Load())
	require.NoError(t, text.Err())
}

// changeRecorder applies changes to a map and records those that contradict it.
type changeRecorder struct {
	mu     sync.Mutex
	state  map[string]string
	errors []string
}

func (o *changeRecorder) record(c config.Change) {
	o.mu.Lock()
	defer o.mu.Unlock()
	was, ok := o.state[c.Key]
	switch {
	case c.Old == nil && ok:
		o.errors = append(o.errors, "created what is there: "+c.Key)
	case c.Old != nil && (!ok || was != string(c.Old)):
		o.errors = append(o.errors, "changed from what it was not: "+c.Key)
	case c.Old == nil && c.New == nil:
		o.errors = append(o.errors, "deleted what is not there: "+c.Key)
	}
	if c.New == nil {
		delete(o.state, c.Key)
	} else {
		o.state[c.Key] = string(c.New)
	}
}

func (o *changeRecorder) equals(want map[string]string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Equal(o.state, want)
}

func TestSource_AgreesWithServerAfterFaults(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.StartCluster(t, 3)
	direct := cluster.Client(t)
	proxies := make([]*etcdtest.Proxy, 3)
	for i, m := range cluster.Members {
		proxies[i] = m.Proxy(t)
	}
	const sources = 10
	var every [sources]*config.Source
	var oracles [sources]*changeRecorder
	for i := range sources {
		eps := []string{proxies[i%3].Endpoint(), proxies[(i+1)%3].Endpoint(), proxies[(i+2)%3].Endpoint()}
		every[i] = open(t, parttest.New(t, etcdtest.NewClient(t, eps), "app"))
		oracles[i] = &changeRecorder{state: map[string]string{}}
		every[i].Follow("", oracles[i].record)
	}
	store := etcdtest.Must(kv.New(direct, kv.WithNamespace("app/conf")))
	end := time.Now().Add(time.Duration(shortOrLong(8, 30)) * time.Second)
	var faults sync.WaitGroup
	faults.Go(func() { injectFaults(t, cluster, proxies, direct, end) })
	for time.Now().Before(end) {
		key := "k" + strconv.Itoa(rand.IntN(30))
		ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
		if rand.IntN(4) == 0 {
			_, _ = store.Delete(ctx, key) // it may fail, applied or not, while members come and go
		} else {
			_, _ = store.Put(ctx, key, []byte(strconv.Itoa(rand.Int())))
		}
		stop()
	}
	faults.Wait()
	cluster.WaitReady()
	rev, err := store.Put(t.Context(), "last", nil)
	require.NoError(t, err)
	for i, s := range every {
		waitForRevision(t, s, rev)
		want := map[string]string{}
		for e, err := range store.List(t.Context(), "") {
			require.NoError(t, err)
			want[e.Key] = string(e.Value)
		}
		assert.Equal(t, slices.Sorted(maps.Keys(want)), s.Keys())
		assert.Equal(t, want, contents(s), "source %d is as the server", i)
		require.Eventually(t, func() bool { return oracles[i].equals(want) }, parttest.Timeout, time.Millisecond, "what listener %d was told makes the state", i)
		assert.Empty(t, oracles[i].errors)
	}
}

// injectFaults cuts connections, kills and restarts a member, and compacts twice.
func injectFaults(t *testing.T, cluster *etcdtest.Cluster, proxies []*etcdtest.Proxy, cli *clientv3.Client, end time.Time) {
	t.Helper()
	pause := time.Until(end) / 10
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for i := range 9 {
		<-tick.C
		switch i {
		case 2:
			cluster.Members[0].Kill()
		case 3, 7:
			ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
			if resp, err := cli.Get(ctx, "app/conf/last"); err == nil {
				_, _ = cli.Compact(ctx, resp.Header.Revision)
			}
			stop()
		case 6:
			cluster.Members[0].Restart()
		default:
			for _, p := range proxies {
				p.Cut()
			}
		}
	}
}
