package watch_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/watch"
)

// seeds returns the number of random runs of each model test.
func seeds() uint64 {
	if long() {
		return 5000
	}
	return 200
}

func long() bool { return os.Getenv("ETCDKIT_LONG") != "" }

// applyRandomChanges makes random changes: writes, faults, elections, compactions and, if asked,
// wiped clusters. Then it stops all faults.
func applyRandomChanges(w *fakeEtcd, rng *rand.Rand, compact, wipe bool) {
	w.set(func() { w.faults = rng.Float64() * 0.8 })
	for range 30 + rng.IntN(60) {
		switch n := rng.IntN(100); {
		case n < 70:
			changes := make([]change, 0, 4)
			used := map[int]bool{}
			for range 1 + rng.IntN(4) {
				k := rng.IntN(12)
				if used[k] {
					continue
				}
				used[k] = true
				changes = append(changes, change{key: key(k), value: strconv.FormatUint(rng.Uint64(), 36), del: rng.IntN(3) == 0})
			}
			if rng.IntN(4) == 0 {
				changes = append(changes, change{key: "other", value: "x"})
			}
			w.commit(changes...)
		case n < 76:
			w.breakOff(nil)
		case n < 80:
			w.breakOff(errors.New("etcdserver: no leader"))
		case n < 84 && compact:
			w.compactTo(w.revision() - rng.Int64N(4))
		case n < 86 && wipe:
			w.wipe()
		case n < 88:
			w.set(func() { w.mute = !w.mute })
		case n < 92:
			w.elect(rng.IntN(2) == 0)
		}
		if rng.IntN(3) > 0 {
			time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
		}
	}
	w.stopFaults()
	w.commit(change{key: key(0), value: "last"})
}

// settled bounds how long a watch takes after the last fault: the longest timeout and the longest
// backoff.
const settled = 2 * time.Minute

func TestModel_EventsWatchGetsEveryRevisionOnceOrCompactedError(t *testing.T) {
	t.Parallel()
	gone := 0
	for seed := range seeds() {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			w := newFakeEtcd(seed)
			w.commit(change{key: key(1), value: "before"})
			watcher := etcdtest.Must(watch.New(w.client(t)))
			defer watcher.Close()
			compact := rng.IntN(2) == 0
			start := w.revision()
			opts := []watch.Option{watch.WithAfter(start), watch.WithBuffer(1 + rng.IntN(20))}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			var at atomic.Int64
			at.Store(start)
			slow := rng.IntN(3) == 0
			last := make(chan int64, 1)
			go func() {
				for b, err := range watcher.Watch(ctx, watch.Prefix("dir/"), opts...) {
					if err != nil {
						done <- err
						return
					}
					at.Store(w.check(t, seed, at.Load(), b))
					select {
					case want := <-last:
						last <- want
						if at.Load() >= want {
							done <- nil
							return
						}
					default:
					}
					if slow {
						time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
					}
				}
			}()
			applyRandomChanges(w, rng, compact, false)
			want := w.revision()
			last <- want
			select {
			case err := <-done:
				if err == nil {
					break
				}
				var lost *watch.CompactedError
				require.ErrorAs(t, err, &lost, "seed %d", seed)
				require.True(t, compact, "seed %d: %v", seed, err)
				require.Equal(t, at.Load(), w.nextChangeAfter(at.Load(), lost.After), "seed %d: delivered up to %d, the error says %d", seed, at.Load(), lost.After)
				require.Greater(t, lost.Oldest, lost.After+1, "seed %d", seed)
				gone++
			case <-time.NewTimer(settled).C:
				if at.Load() < want {
					t.Fatalf("seed %d: at %d of %d: %+v", seed, at.Load(), want, watcher.ServerWatches())
				}
			}
			require.False(t, w.closed, "the user's watcher was closed")
		})
	}
	require.Positive(t, gone, "no seed lost history, so the test proves nothing")
}

// check compares a Live batch with the history after at, and returns where the consumer is then.
func (w *fakeEtcd) check(t *testing.T, seed uint64, at int64, b watch.Batch) int64 {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Equal(t, watch.Live, b.Kind, "seed %d", seed)
	require.Greater(t, b.Revision, at, "seed %d: out of order or twice", seed)
	for rev := at + 1; rev < b.Revision; rev++ {
		for _, ev := range w.history[rev] {
			require.False(t, inside(string(ev.Kv.Key), "dir/", "dir0"), "seed %d: revision %d was left out between %d and %d", seed, rev, at, b.Revision)
		}
	}
	var want, got []string
	for _, ev := range w.history[b.Revision] {
		if inside(string(ev.Kv.Key), "dir/", "dir0") {
			want = append(want, fmt.Sprint(ev.Kv.Version == 0, string(ev.Kv.Key), string(ev.Kv.Value), ev.Kv.ModRevision))
		}
	}
	for _, e := range b.Events {
		got = append(got, fmt.Sprint(e.Type == watch.Delete, e.Key, string(e.Value), e.ModRevision))
	}
	require.Equal(t, want, got, "seed %d: revision %d is not whole", seed, b.Revision)
	return b.Revision
}

// nextChangeAfter returns at if nothing has changed in the range between at and after, otherwise
// after.
func (w *fakeEtcd) nextChangeAfter(at, after int64) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	for rev := at + 1; rev <= after; rev++ {
		for _, ev := range w.history[rev] {
			if inside(string(ev.Kv.Key), "dir/", "dir0") {
				return after
			}
		}
	}
	return at
}

func TestModel_StateWatchConverges(t *testing.T) {
	t.Parallel()
	resyncs := 0
	for seed := range seeds() {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 2))
			w := newFakeEtcd(seed)
			for i := range rng.IntN(8) {
				w.commit(change{key: key(i), value: "before"})
			}
			watcher := etcdtest.Must(watch.New(w.client(t)))
			defer watcher.Close()
			m := newMirror()
			m.rewritten = rng.IntN(3) == 0
			opts := []watch.Option{watch.WithSnapshot(), watch.WithBuffer(1 + rng.IntN(20))}
			if rng.IntN(4) == 0 {
				opts = append(opts, watch.WithCoalescing())
			}
			if rng.IntN(3) == 0 {
				m.keys, m.stored = w.state(), true
				opts = append(opts, watch.WithAfter(w.revision()))
				for range rng.IntN(10) {
					w.commit(change{key: key(rng.IntN(12)), value: strconv.FormatUint(rng.Uint64(), 36), del: rng.IntN(2) == 0})
				}
				if rng.IntN(2) == 0 {
					w.compactTo(w.revision())
				}
			}
			slow := rng.IntN(3) == 0
			sub, err := watcher.Subscribe(watch.Prefix("dir/"), func(_ context.Context, b watch.Batch) error {
				m.apply(b)
				if slow {
					time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
				}
				return m.err
			}, opts...)
			require.NoError(t, err)
			if m.stored {
				// otherwise another history may start before the watch has determined its own
				ready(t, sub)
			}
			applyRandomChanges(w, rng, true, m.rewritten)
			time.Sleep(settled)
			synctest.Wait()
			require.NoError(t, sub.Err(), "seed %d", seed)
			require.Equal(t, watch.StateLive, sub.Status().State, "seed %d: %+v", seed, sub.Status())
			require.NoError(t, sub.Close())
			require.True(t, maps.Equal(w.state(), m.keys), "seed %d: want %v, got %v", seed, w.state(), m.keys)
			resyncs += m.resyncs
		})
	}
	require.Positive(t, resyncs, "no seed needed a resync, so the test proves nothing")
}

func TestModel_EventsWatchDetectsRewrittenHistory(t *testing.T) {
	t.Parallel()
	for seed := range seeds() {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			w := newFakeEtcd(seed)
			w.commit(change{key: key(1), value: "before"})
			watcher := etcdtest.Must(watch.New(w.client(t)))
			defer watcher.Close()
			opts := []watch.Option{watch.WithBuffer(1 + rng.IntN(20))}
			if rng.IntN(2) == 0 {
				opts = append(opts, watch.WithAfter(w.revision()))
			}
			slow := rng.IntN(3) == 0
			at := int64(0)
			sub, err := watcher.Subscribe(watch.Prefix("dir/"), func(_ context.Context, b watch.Batch) error {
				if b.Revision <= at {
					return fmt.Errorf("revision %d after %d", b.Revision, at)
				}
				at = b.Revision
				if slow {
					time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
				}
				return nil
			}, opts...)
			require.NoError(t, err)
			ready(t, sub)
			applyRandomChanges(w, rng, false, true)
			w.wipe()
			w.commit(change{key: key(0), value: "new"})
			time.Sleep(settled)
			require.ErrorIs(t, ended(t, sub), watch.ErrHistoryRewritten, "seed %d", seed)
		})
	}
}
