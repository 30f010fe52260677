package cache_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

// writeLog records for each key which writes were acknowledged, to which process, and when.
type writeLog struct {
	keys []writeLogKey
}

type writeLogKey struct {
	// Held while the key is written: the order of acknowledgements is that of revisions.
	mu     sync.Mutex
	latest atomic.Int64
	// The last write that was acknowledged, by process and by whose store it went through.
	acked    [2][2]atomic.Int64
	writes   []ackedWrite // guarded by writesMu
	writesMu sync.Mutex
}

type ackedWrite struct {
	n  int64
	at time.Time // of the acknowledgement
}

// lastAckedBefore returns the number of the last write that was acknowledged before a time, to any
// process.
func (k *writeLogKey) lastAckedBefore(before time.Time) (n int64) {
	k.writesMu.Lock()
	defer k.writesMu.Unlock()
	for i := range slices.Backward(k.writes) {
		if k.writes[i].at.Before(before) {
			k.writes = k.writes[i:]
			return k.writes[0].n
		}
	}
	return 0
}

// process is one of the two clients, with its cache and its replica.
type process struct {
	id       int
	cache    *cache.Cache[int64]
	replica  *cache.Replica[int64]
	proxy    *etcdtest.Proxy
	maxDelay func() time.Duration
}

// randomOperation makes one random operation and checks its result.
func (p *process) randomOperation(t *testing.T, l *writeLog, last []int64) {
	t.Helper()
	i := rand.IntN(len(l.keys))
	k, key := &l.keys[i], "k"+strconv.Itoa(i)
	switch op := rand.IntN(100); {
	case op < 2:
		p.write(t, k, key)
	case op < 5:
		p.linearizable(t, k, key)
	case op == 5:
		p.cache.Invalidate(key)
	default:
		from := rand.IntN(2)
		p.read(t, k, key, from, &last[2*i+from])
	}
}

func (p *process) write(t *testing.T, k *writeLogKey, key string) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.latest.Add(1)
	through := int(n % 2)
	store := p.cache.Store()
	if through == ofReplica {
		store = p.replica.Store()
	}
	var err error
	if n%5 == 0 {
		_, err = store.Update(t.Context(), key, func(v *int64) error { *v = n; return nil }, kv.WithUpsert(), kv.WithOnce())
	} else {
		_, err = store.Put(t.Context(), key, n, kv.WithOnce())
	}
	if err != nil {
		return // its number was never promised
	}
	k.writesMu.Lock()
	k.writes = append(k.writes, ackedWrite{n, time.Now()})
	k.writesMu.Unlock()
	k.acked[p.id][through].Store(n)
}

// Which store a write went through, and which reader was used.
const (
	ofCache = iota
	ofReplica
)

func (p *process) read(t *testing.T, k *writeLogKey, key string, from int, last *int64) {
	t.Helper()
	var source cache.Reader[int64] = p.cache
	if from == ofReplica {
		source = p.replica
	}
	began := time.Now()
	own := k.acked[p.id][from].Load()
	settled := k.lastAckedBefore(began.Add(-minStaleness - p.maxDelay()))
	e, err := source.Get(t.Context(), key)
	if err != nil && !isNotFound(err) {
		return // unreachable, or too old: it says so
	}
	assert.GreaterOrEqual(t, e.Value, own, "older than a write acknowledged to this process")
	assert.GreaterOrEqual(t, e.Value, settled, "older than the bound: process %d, cache %t, after %v, ages %v and %v", p.id, from == ofCache, time.Since(began), p.cache.Age(), p.replica.Age())
	assert.GreaterOrEqual(t, e.ModRevision, *last, "back in time")
	*last = e.ModRevision
}

func (p *process) linearizable(t *testing.T, k *writeLogKey, key string) {
	t.Helper()
	k.writesMu.Lock()
	var all int64
	if len(k.writes) > 0 {
		all = k.writes[len(k.writes)-1].n
	}
	k.writesMu.Unlock()
	ctx, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	get := p.cache.GetLinearizable
	if rand.IntN(2) == 0 {
		get = p.replica.GetLinearizable
	}
	e, err := get(ctx, key)
	if err == nil || isNotFound(err) {
		assert.GreaterOrEqual(t, e.Value, all, "older than a write that was acknowledged")
	}
}

// Eight goroutines of two clients read and write a few keys while their connections are cut and
// silenced. No read is older than a write acknowledged to the same process, none is older than the
// bound, and none goes back in time.
func TestCache_MixedOperationsUnderDisconnects(t *testing.T) {
	t.Parallel()
	operations, keys := int64(60_000), 40
	if isLongRun() {
		operations = 1_000_000
	}
	dir := etcdtest.Prefix(t)
	l := &writeLog{keys: make([]writeLogKey, keys)}
	late := measureDelay(t)
	var all []*process
	for id := range 2 {
		proxy := etcdtest.NewProxy(t, etcdtest.Endpoints()[0])
		p := parttest.New(t, etcdtest.NewClient(t, proxy.Endpoints()), dir)
		all = append(all, &process{
			id: id, proxy: proxy, maxDelay: late,
			cache:   openCache(t, p, "dir", kv.JSON[int64](), cache.WithMaxStaleness(minStaleness), cache.WithMaxEntries(keys/2), cache.WithReadOnlyCheck()),
			replica: openReplica(t, p, "dir", kv.JSON[int64](), cache.WithMaxStaleness(minStaleness)),
		})
	}
	done := make(chan struct{})
	var chaos, workers sync.WaitGroup
	for _, p := range all {
		chaos.Go(func() { disturbConnection(p.proxy, p.id == 0, done) })
	}
	var made atomic.Int64
	for g := range 8 {
		workers.Go(func() {
			last := make([]int64, 2*keys)
			for made.Add(1) <= operations && !t.Failed() {
				all[g%2].randomOperation(t, l, last)
			}
		})
	}
	workers.Wait()
	close(done)
	chaos.Wait()
	for _, p := range all {
		s := p.cache.Stats()
		t.Logf("cache %d: %+v, replica: %+v", p.id, s, p.replica.Stats())
		assert.Positive(t, s.Hits)
		assert.Positive(t, s.Invalidations)
		assert.Positive(t, s.Evictions)
		assert.True(t, p.id == 1 || s.Stale > 0 && p.replica.Stats().Stale > 0, "the bound was never passed")
	}
}

// disturbConnection cuts and silences a connection at random. If hard is set, it first silences the
// connection until the bound is exceeded.
func disturbConnection(proxy *etcdtest.Proxy, hard bool, done <-chan struct{}) {
	wait := func(d time.Duration) bool {
		pause := time.NewTimer(d)
		defer pause.Stop()
		select {
		case <-done:
			return false
		case <-pause.C:
			return true
		}
	}
	defer proxy.Heal()
	for wait(time.Duration(50+rand.IntN(400)) * time.Millisecond) {
		pause := time.Duration(rand.IntN(150)) * time.Millisecond
		switch {
		case hard || rand.IntN(20) == 0:
			proxy.Blackhole(true, true)
			hard, pause = false, minStaleness+time.Second
		case rand.IntN(3) == 0:
			proxy.Hold(false, true)
		default:
			proxy.Cut()
		}
		wait(pause)
		proxy.Heal()
	}
}
