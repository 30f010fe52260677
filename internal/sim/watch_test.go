package sim_test

// The invariants of watch, with etcd's names for them:
//
//   - Ordered: the revisions of the batches of a watch rise, and events have the order of the commits.
//   - Unique: no event is delivered twice, also if a watch continues with WithAfter.
//   - Atomic: a batch has all changes that a transaction has made below the prefix.
//   - Reliable: no change is left out. Only changes that were compacted end an events watch, with the
//     revision up to which it has delivered everything. A state watch then has a Resync.
//   - Resumable: a watch that was ended continues with WithAfter where it was.
//   - Bookmarkable: when a Progress batch is delivered, everything up to its revision was delivered.
//   - State: after each batch a consumer of a state watch has the state of the batch's revision.
//   - Checkpoints: Consume saves no revision before its batches are processed, also if its function
//     fails, and continues after the last one that was saved.
//   - Subscriptions: no function runs after Close, or after Done is closed. When WaitRevision returns,
//     the function has returned from everything up to the revision.
//   - Coalescing: a batch has the latest change of each key, and tells how many it leaves out.
//   - Liveness: once faults stop, each watch has delivered everything within a bound.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/sim"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

const (
	watchFaultTime = 25 * time.Second
	watchKeys      = 20 // more than fit into one piece of a listing
	watchPrefix    = "w/"
	watchCatchUp   = 45 * time.Second // after the faults
)

// follower is a consumer of watches, one after the other, that checks each batch.
type follower struct {
	t     *testing.T
	s     *sim.Sim
	h     *history
	name  string
	rng   *rand.Rand
	watch *watch.Watcher

	snapshot bool   // watches state
	restarts bool   // is ended and continues
	slow     bool   // lags behind
	via      string // "subscribe" and "consume" stand for these methods, "" for Watch
	opts     []watch.Option

	saved    int64            // the checkpoint of Consume
	restored map[string]int64 // the state at the checkpoint
	reached  atomic.Int64     // everything up to this revision was delivered; 0 before the first snapshot
	handling atomic.Bool      // the function of Subscribe or Consume runs
	state    map[string]int64 // mod revisions
	pending  map[string]int64 // the state with the batches so far of a snapshot or a resync
	n        map[string]int   // of batches by kind, of changes left out, and of compactions
}

// run watches until ctx ends.
func (f *follower) run(ctx context.Context) {
	for ctx.Err() == nil {
		bounded, cancel := context.WithCancel(ctx)
		if f.restarts {
			bounded, cancel = context.WithTimeout(ctx, time.Duration(f.rng.Int64N(int64(4*time.Second))))
		}
		opts := append([]watch.Option{}, f.opts...)
		if f.snapshot {
			opts = append(opts, watch.WithSnapshot())
		}
		if rev := f.reached.Load(); rev > 0 && f.via != "consume" {
			opts = append(opts, watch.WithAfter(rev))
		}
		f.pending = nil
		first := true
		err := f.deliver(bounded, opts, func(b watch.Batch) {
			if f.slow && f.rng.IntN(20) == 0 {
				time.Sleep(time.Duration(f.rng.Int64N(int64(2 * time.Second))))
			}
			f.n[b.Kind.String()]++
			f.n["folded"] += b.Folded
			f.batch(b, first)
			first = first && b.Kind == watch.Progress
		})
		f.ended(bounded, err)
		cancel()
	}
}

// deliver passes batches to handle until ctx or the watch ends.
func (f *follower) deliver(ctx context.Context, opts []watch.Option, handle func(b watch.Batch)) error {
	sel := watch.Prefix(watchPrefix)
	handler := func(_ context.Context, b watch.Batch) error {
		f.handling.Store(true)
		defer f.handling.Store(false)
		if f.rng.IntN(50) == 0 {
			return errHandler
		}
		handle(b)
		return nil
	}
	switch f.via {
	case "subscribe":
		sub, err := f.watch.Subscribe(sel, handler, opts...)
		if err != nil {
			return err
		}
		var waiting sync.WaitGroup
		waiting.Go(func() { f.waitRevisions(ctx, sub) })
		defer waiting.Wait()
		select {
		case <-sub.Done():
			err = sub.Err()
		case <-ctx.Done():
			err = errors.Join(sub.Close(), ctx.Err())
		}
		if f.handling.Load() {
			f.t.Errorf("%s: the function runs after the subscription has ended: %v", f.name, err)
		}
		return err
	case "consume":
		return f.watch.Consume(ctx, sel, f, handler, opts...)
	}
	for b, err := range f.watch.Watch(ctx, sel, opts...) {
		if err != nil {
			return err
		}
		handle(b)
	}
	return nil
}

// waitRevisions checks WaitRevision until the subscription or ctx ends.
func (f *follower) waitRevisions(ctx context.Context, sub *watch.Subscription) {
	const interval, timeout = time.Second, 300 * time.Millisecond
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-sub.Done():
			return
		case <-ctx.Done():
			return
		}
		rev := f.h.revision()
		bounded, cancel := context.WithTimeout(ctx, timeout)
		if err := sub.WaitRevision(bounded, rev); err == nil {
			f.nothingMissing(rev, "WaitRevision returned")
		}
		cancel()
	}
}

// The errors of a checkpoint that cannot be saved, and of a function that has not processed a batch.
var (
	errSave    = errors.New("not saved")
	errHandler = errors.New("not processed")
)

// Load returns the revision that Consume continues after. What was delivered after it is delivered
// again.
func (f *follower) Load(context.Context) (int64, error) {
	f.reached.Store(f.saved)
	f.state = f.restored
	return f.saved, nil
}

// Save saves a revision, or fails.
func (f *follower) Save(_ context.Context, rev int64) error {
	if reached := f.reached.Load(); rev > reached {
		f.nothingMissing(rev, "a checkpoint")
	}
	if f.rng.IntN(20) == 0 {
		return errSave
	}
	f.saved, f.restored = rev, f.state
	return nil
}

// ended checks why a watch has ended.
func (f *follower) ended(ctx context.Context, err error) {
	f.s.Trace("%s: ended after %d: %v", f.name, f.reached.Load(), err)
	if ctx.Err() != nil || errors.Is(err, errSave) || errors.Is(err, errHandler) {
		return
	}
	var compacted *watch.CompactedError
	if f.snapshot || !errors.As(err, &compacted) {
		f.t.Errorf("%s: the watch ended after revision %d: %v", f.name, f.reached.Load(), err)
		time.Sleep(time.Second)
		return
	}
	f.n["compacted"]++
	if f.s.Count()["fault "+string(sim.Compact)] == 0 {
		f.t.Errorf("%s: %v, but nothing was compacted", f.name, err)
	}
	f.nothingMissing(compacted.After, "an error that tells of a compaction")
	if compacted.Oldest <= compacted.After+1 {
		f.t.Errorf("%s: nothing is missing between %d and %d", f.name, compacted.After, compacted.Oldest)
	}
	f.saved = compacted.Oldest - 1
	f.reached.Store(f.saved)
}

// nothingMissing checks that everything up to rev was delivered.
func (f *follower) nothingMissing(rev int64, what string) {
	for _, e := range f.h.below(watchPrefix, f.reached.Load()) {
		if e.Kv.ModRevision <= rev {
			f.t.Errorf("%s: %s at %d after %d; the change of %s at %d was not delivered", f.name, what, rev, f.reached.Load(), e.Kv.Key, e.Kv.ModRevision)
			return
		}
	}
}

// describe returns what identifies an event.
func describe(kind mvccpb.Event_EventType, key, value string, rev int64) string {
	return fmt.Sprintf("%v %s=%s@%d", kind, key, value, rev)
}

func describeEvents(events []*mvccpb.Event) (out []string) {
	for _, e := range events {
		out = append(out, describe(e.Type, string(e.Kv.Key), string(e.Kv.Value), e.Kv.ModRevision))
	}
	return out
}

func describeBatch(b watch.Batch) (out []string) {
	for _, e := range b.Events {
		kind := mvccpb.Event_PUT
		if e.Type == watch.Delete {
			kind = mvccpb.Event_DELETE
		}
		out = append(out, describe(kind, e.Key, string(e.Value), e.ModRevision))
	}
	return out
}

// batch checks a batch; first tells whether it is the first of a watch, Progress batches aside.
func (f *follower) batch(b watch.Batch, first bool) {
	reached := f.reached.Load()
	if b.Revision < reached || b.Kind == watch.Live && b.Revision == reached {
		f.t.Errorf("%s: a %v batch of revision %d after %d", f.name, b.Kind, b.Revision, reached)
	}
	if last := f.h.revision(); b.Revision > last {
		f.t.Errorf("%s: a %v batch of revision %d, when %d is the last", f.name, b.Kind, b.Revision, last)
	}
	if f.pending == nil {
		f.pending = maps.Clone(f.state)
	}
	switch b.Kind {
	case watch.Progress:
		f.nothingMissing(b.Revision, "a progress batch")
	case watch.Live:
		f.live(b, reached)
	case watch.Snapshot, watch.Resync:
		if !f.snapshot || b.Kind == watch.Snapshot && reached > 0 {
			f.t.Errorf("%s: a %v batch at %d after %d", f.name, b.Kind, b.Revision, reached)
		}
		if first {
			f.pending = map[string]int64{}
		}
	}
	for _, e := range b.Events {
		if e.Type == watch.Delete {
			delete(f.pending, e.Key)
		} else {
			f.pending[e.Key] = e.ModRevision
		}
	}
	if b.More {
		return
	}
	if f.snapshot {
		want := map[string]int64{}
		for i := range watchKeys {
			key := fmt.Sprint(watchPrefix, i)
			if mod, _ := f.h.at(key, b.Revision); mod != 0 {
				want[key] = mod
			}
		}
		if !maps.Equal(want, f.pending) {
			f.t.Errorf("%s: after the %v batch of revision %d the consumer has %v; the state is %v", f.name, b.Kind, b.Revision, f.pending, want)
		}
	}
	f.state, f.pending = f.pending, nil
	f.reached.Store(b.Revision)
}

// live checks that a batch has exactly what was committed since reached.
func (f *follower) live(b watch.Batch, reached int64) {
	var want []*mvccpb.Event
	for _, e := range f.h.below(watchPrefix, reached) {
		if e.Kv.ModRevision <= b.Revision {
			want = append(want, e)
		}
	}
	if b.Folded == 0 {
		if got, want := describeBatch(b), describeEvents(want); !assert.ObjectsAreEqual(want, got) {
			f.t.Errorf("%s: the batch of revision %d after %d has %v; committed was %v", f.name, b.Revision, reached, got, want)
		}
		return
	}
	latest := map[string]*mvccpb.Event{}
	for _, e := range want {
		latest[string(e.Kv.Key)] = e
	}
	var events []*mvccpb.Event
	for _, e := range latest {
		events = append(events, e)
	}
	if !assert.ElementsMatch(f.t, describeEvents(events), describeBatch(b), "%s: the coalesced batch of revision %d after %d", f.name, b.Revision, reached) {
		return
	}
	assert.Equal(f.t, len(want)-len(events), b.Folded, "%s: what the batch of revision %d after %d leaves out", f.name, b.Revision, reached)
}

// change makes transactions below the prefix, and others, until ctx ends.
func change(ctx context.Context, s *sim.Sim, name string, store *kv.Store) {
	rng := s.Rand(name)
	for n := 0; ctx.Err() == nil; n++ {
		var ops []kv.Op
		for _, i := range rng.Perm(watchKeys)[:1+rng.IntN(4)] {
			key := fmt.Sprint(watchPrefix, i)
			if rng.IntN(4) == 0 {
				ops = append(ops, kv.OpDelete(key))
			} else {
				ops = append(ops, kv.OpPut(key, fmt.Append(nil, name, "-", n)))
			}
		}
		if rng.IntN(3) == 0 {
			ops = append(ops[:rng.IntN(len(ops))], kv.OpPut("other", nil))
		}
		bounded, cancel := context.WithTimeout(ctx, 3*time.Second)
		if _, err := store.Batch(bounded, ops...); err != nil {
			s.Trace("%s: batch: %v", name, err)
		}
		cancel()
		time.Sleep(time.Duration(rng.Int64N(int64(200 * time.Millisecond))))
	}
}

func TestSim_WatchesDeliverTheHistory(t *testing.T) {
	forSeeds(t, sim.Options{}, func(t *testing.T, s *sim.Sim) {
		h := record(s)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		changing, stopChanges := context.WithCancel(ctx)
		defer stopChanges()
		var clients []*etcdkit.Client
		var changers, followers sync.WaitGroup
		writer := openUntil(t, s, "w")
		clients = append(clients, writer)
		_, err := writer.KV().Put(t.Context(), "other", nil)
		require.NoError(t, err)
		start := h.revision()
		progress := watch.WithProgress(2 * time.Second)
		var all []*follower
		for _, client := range []string{"a", "b"} {
			c := openUntil(t, s, client)
			clients = append(clients, c)
			for _, f := range []*follower{
				{name: "events", opts: []watch.Option{progress}},
				{name: "events restarted", restarts: true, opts: []watch.Option{progress}},
				{name: "events slow", slow: true, opts: []watch.Option{watch.WithBuffer(16)}},
				{name: "events coalesced", slow: true, opts: []watch.Option{watch.WithCoalescing()}},
				{name: "subscription", via: "subscribe", restarts: true, slow: true, opts: []watch.Option{progress}},
				{name: "consumer", via: "consume", restarts: true, opts: []watch.Option{progress}},
				{name: "state consumer", via: "consume", snapshot: true, restarts: true},
				{name: "state", snapshot: true},
				{name: "state subscription", via: "subscribe", snapshot: true, restarts: true},
				{name: "state restarted", snapshot: true, restarts: true, opts: []watch.Option{progress}},
				{name: "state slow", snapshot: true, slow: true, opts: []watch.Option{watch.WithBuffer(16)}},
			} {
				f.t, f.s, f.h, f.watch = t, s, h, c.Watcher()
				f.name = client + "/" + f.name
				f.rng, f.n, f.state, f.restored = s.Rand(f.name), map[string]int{}, map[string]int64{}, map[string]int64{}
				if !f.snapshot {
					f.saved = start
					f.reached.Store(start)
				}
				all = append(all, f)
				followers.Go(func() { f.run(ctx) })
			}
		}
		for i := range 2 {
			changers.Go(func() { change(changing, s, fmt.Sprint("w", i), writer.KV()) })
		}
		s.StartFaults(sim.Plan{Interval: time.Second})
		time.Sleep(watchFaultTime)
		s.StopFaults()
		began := time.Now()
		stopChanges()
		changers.Wait()
		time.Sleep(10 * time.Second) // what was sent before is applied
		changes := h.below(watchPrefix, 0)
		require.NotEmpty(t, changes)
		last := changes[len(changes)-1].Kv.ModRevision
		for _, f := range all {
			for f.reached.Load() < last && time.Since(began) < watchCatchUp {
				time.Sleep(100 * time.Millisecond)
			}
			if reached := f.reached.Load(); reached < last {
				t.Errorf("%s: revision %d was reached %v after the faults; the last change is at %d", f.name, reached, watchCatchUp, last)
			}
		}
		stop()
		followers.Wait()
		for _, c := range clients {
			assert.NoError(t, c.Close())
		}
		sum := map[string]int{}
		for _, f := range all {
			for kind, n := range f.n {
				sum[kind] += n
			}
		}
		t.Logf("%d revisions, of which %d events; batches: %v", h.revision(), len(changes), sum)
	})
}
