package watch_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fakeEtcd is an in-memory etcd cluster for watches and lists, with faults that cannot be produced
// on demand in a real one. It runs in synctest bubbles.
type fakeEtcd struct {
	clientv3.KV // nil: only the methods below are used

	mu       sync.Mutex
	rng      *rand.Rand
	rev      int64
	compact  int64 // the oldest revision that is left
	history  map[int64][]*clientv3.Event
	versions map[string][]*mvccpb.KeyValue // Version 0 means deleted
	cluster  uint64
	term     uint64
	floor    uint64 // no term of this history is lower
	watches  map[*fakeWatch]struct{}
	opened   int // watches ever opened
	requests int // for progress
	closed   bool

	faults    float64           // the probability of a fault
	refuse    func(n int) error // the error of the n-th watch, or nil
	refuseNow bool              // refuses watches at revision 0, but not replays
	mute      bool              // open watches send nothing, new ones are not confirmed
	unread    bool              // reads fail
	lagging   int64             // revisions by which the member of new watches lags
	lagTerm   bool              // and it has not applied the first entry of the current term

	muteReplays bool // replays are confirmed and send nothing
	// replays without fragments send nothing, as over client/v3, which hides that it refuses them
	tooLarge bool
	shuffle  bool // events of several revisions are sent in the wrong order
}

func newFakeEtcd(seed uint64) *fakeEtcd {
	return &fakeEtcd{
		rng: rand.New(rand.NewPCG(seed, 7)), rev: 1, compact: 1, cluster: 11, term: 1_000_000, floor: 1_000_000,
		history: map[int64][]*clientv3.Event{}, versions: map[string][]*mvccpb.KeyValue{}, watches: map[*fakeWatch]struct{}{},
	}
}

// client returns a client of the fake.
func (w *fakeEtcd) client(tb testing.TB) *clientv3.Client {
	ctx, stop := context.WithCancel(context.WithoutCancel(tb.Context()))
	tb.Cleanup(stop)
	cli := clientv3.NewCtxClient(ctx)
	cli.KV, cli.Watcher = w, w
	return cli
}

type change struct {
	key, value string
	del        bool
}

// commit commits one transaction. Deletes of absent keys change nothing.
func (w *fakeEtcd) commit(changes ...change) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	var events []*clientv3.Event
	next := w.rev + 1
	for _, c := range changes {
		old := w.at(c.key, w.rev)
		switch {
		case c.del && old == nil:
		case c.del:
			kv := &mvccpb.KeyValue{Key: []byte(c.key), ModRevision: next}
			w.versions[c.key] = append(w.versions[c.key], kv)
			events = append(events, &clientv3.Event{Type: mvccpb.Event_DELETE, Kv: kv, PrevKv: old})
		default:
			kv := &mvccpb.KeyValue{Key: []byte(c.key), Value: []byte(c.value), ModRevision: next, CreateRevision: next, Version: 1}
			if old != nil {
				kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
			}
			w.versions[c.key] = append(w.versions[c.key], kv)
			events = append(events, &clientv3.Event{Type: mvccpb.Event_PUT, Kv: kv, PrevKv: old})
		}
	}
	if len(events) == 0 {
		return w.rev
	}
	w.rev = next
	w.history[next] = events
	w.wake()
	return next
}

// at returns a key as of rev, or nil if there is none.
func (w *fakeEtcd) at(key string, rev int64) *mvccpb.KeyValue {
	all := w.versions[key]
	for _, kv := range slices.Backward(all) {
		if kv.ModRevision <= rev {
			if kv.Version == 0 {
				return nil
			}
			return kv
		}
	}
	return nil
}

// revision returns the current revision.
func (w *fakeEtcd) revision() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rev
}

// progressRequests returns the number of progress requests.
func (w *fakeEtcd) progressRequests() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.requests
}

// compactTo compacts the history before rev. Watches that need it are canceled.
func (w *fakeEtcd) compactTo(rev int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.compact = max(w.compact, min(rev, w.rev))
	w.wake()
}

// wipe starts another history.
func (w *fakeEtcd) wipe() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rev, w.compact = 1, 1
	// more than the elections of a test: a history whose term is not lower cannot be recognized
	w.floor -= 1000
	w.term = w.floor
	clear(w.history)
	clear(w.versions)
	w.breakAll(nil)
}

// elect elects another leader. Members that lag may not know its term.
func (w *fakeEtcd) elect(known bool) {
	w.set(func() { w.term, w.lagTerm = w.term+1, !known })
}

// breakOff ends all watches, with err unless it is nil.
func (w *fakeEtcd) breakOff(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.breakAll(err)
}

func (w *fakeEtcd) breakAll(err error) {
	for f := range w.watches {
		f.end = &watchEnd{err}
		f.wake()
	}
}

// stopFaults ends all faults.
func (w *fakeEtcd) stopFaults() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults, w.refuse, w.mute, w.lagging, w.lagTerm = 0, nil, false, 0, false
	for f := range w.watches {
		f.lag = 0
	}
	w.wake()
}

func (w *fakeEtcd) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.wake()
}

func (w *fakeEtcd) wake() {
	for f := range w.watches {
		f.wake()
	}
}

// state returns the values below "dir/".
func (w *fakeEtcd) state() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]string{}
	for key := range w.versions {
		if kv := w.at(key, w.rev); kv != nil && inside(key, "dir/", "dir0") {
			out[key] = string(kv.Value)
		}
	}
	return out
}

func inside(key, from, to string) bool {
	switch to {
	case "":
		return key == from
	case "\x00":
		return key >= from
	}
	return key >= from && key < to
}

func (w *fakeEtcd) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: w.cluster, Revision: w.rev, RaftTerm: w.term}
}

// injectsFault reports whether a fault happens now.
func (w *fakeEtcd) injectsFault(share float64) bool {
	return w.faults > 0 && w.rng.Float64() < w.faults*share
}

// Get returns keys after a millisecond.
func (w *fakeEtcd) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	select {
	case <-time.NewTimer(time.Millisecond).C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unread || w.injectsFault(1) {
		return nil, rpctypes.ErrTimeout
	}
	op := clientv3.OpGet(key, opts...)
	rev := op.Rev()
	switch {
	case rev > w.rev:
		return nil, rpctypes.ErrFutureRev
	case rev != 0 && rev < w.compact:
		return nil, rpctypes.ErrCompacted
	case rev == 0:
		rev = w.rev
	}
	out := &clientv3.GetResponse{Header: w.header()}
	var keys []string
	for k := range w.versions {
		if inside(k, key, string(op.RangeBytes())) && w.at(k, rev) != nil {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	out.Count = int64(len(keys))
	if op.IsCountOnly() {
		return out, nil
	}
	if n := int(op.Limit()); n > 0 && len(keys) > n {
		keys, out.More = keys[:n], true
	}
	for _, k := range keys {
		out.Kvs = append(out.Kvs, w.at(k, rev))
	}
	return out, nil
}

// GetStream is not implemented, as on older servers.
func (w *fakeEtcd) GetStream(context.Context, string, ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	return nil, status.Error(codes.Unimplemented, "unknown method")
}

func key(i int) string { return fmt.Sprintf("dir/k%02d", i) }
