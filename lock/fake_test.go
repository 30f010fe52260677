package lock_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/wire"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/lease"
	"github.com/etcdkit/etcdkit/lock"
	"github.com/etcdkit/etcdkit/watch"
)

// errLost is the error of a request whose connection breaks.
var errLost = status.Error(codes.Unavailable, "error reading from server: EOF")

// fakeEtcd simulates etcd behind a link, in the fake time of a synctest bubble.
type fakeEtcd struct {
	rtt time.Duration
	// fate returns the fate of the n-th request, from 1, of a method: "txn", "range", "delete" or
	// "put". If it is nil, a request is applied after half of the round trip and answered after all
	// of it.
	fate func(method string, n int) fakeFate

	mu      sync.Mutex
	rev     int64
	keys    map[string]*mvccpb.KeyValue
	leases  map[int64]*fakeLease
	watches map[*fakeWatch]bool
	cut     bool // no watch can be opened
	sent    map[string]int
}

// fakeFate says when a request is applied and when its response arrives. A negative time means
// never. If err is set, it is the response.
type fakeFate struct {
	applied, answered time.Duration
	err               error
}

type fakeLease struct {
	ttl   int64
	timer *time.Timer
}

type fakeWatch struct {
	key, end []byte
	events   chan clientv3.WatchResponse
	broken   chan struct{}
}

func newFake(rtt time.Duration) *fakeEtcd {
	return &fakeEtcd{
		rtt: rtt, rev: 1, keys: map[string]*mvccpb.KeyValue{}, leases: map[int64]*fakeLease{},
		watches: map[*fakeWatch]bool{}, sent: map[string]int{},
	}
}

// client returns a client of client/v3.
func (f *fakeEtcd) client(ctx context.Context) *clientv3.Client {
	cli := clientv3.NewCtxClient(ctx)
	cli.KV = clientv3.NewKVFromKVClient(&fakeKV{f: f}, cli)
	cli.Lease = &fakeLeases{f: f}
	cli.Watcher = &fakeWatcher{f: f}
	return cli
}

// slowTTL is the TTL of sessions over slow links.
const slowTTL = 2 * time.Minute

// locker returns a locker with a client of its own, like another process. Its session is open, and
// its holds are not watched.
func (f *fakeEtcd) locker(t *testing.T) *lock.Locker {
	t.Helper()
	cli := f.client(context.WithoutCancel(t.Context()))
	p := &parts{cli: cli, store: etcdtest.Must(kv.New(cli)), watcher: etcdtest.Must(watch.New(cli)), leases: etcdtest.Must(lease.New(cli, lease.WithSessionTTL(slowTTL)))}
	_, err := p.leases.Shared(t.Context())
	require.NoError(t, err)
	l := etcdtest.Must(lock.New(p))
	l.DisableHoldWatch()
	t.Cleanup(func() {
		f.heal()
		assert.NoError(t, l.Close())
		assert.NoError(t, p.leases.Close())
		assert.NoError(t, p.watcher.Close())
	})
	return l
}

// heal makes the link fast and reliable.
func (f *fakeEtcd) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rtt, f.fate = time.Millisecond, nil
}

// lag returns how long a round trip takes.
func (f *fakeEtcd) lag() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rtt
}

// count returns how many requests were sent since the last time, by method.
func (f *fakeEtcd) count() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	sent := f.sent
	f.sent = map[string]int{}
	return sent
}

// lockKeys returns the keys of locks.
func (f *fakeEtcd) lockKeys() (keys []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.keys {
		if strings.HasPrefix(key, "locks/") {
			keys = append(keys, key)
		}
	}
	return keys
}

// carry sends a request. The end of ctx does not stop it.
func carry[R any](ctx context.Context, f *fakeEtcd, method string, apply func() (R, error)) (R, error) {
	type answer struct {
		resp R
		err  error
	}
	if ctx.Err() != nil {
		return *new(R), ctx.Err()
	}
	f.mu.Lock()
	f.sent[method]++
	fate := fakeFate{applied: f.rtt / 2, answered: f.rtt}
	if f.fate != nil {
		fate = f.fate(method, f.sent[method])
	}
	f.mu.Unlock()
	wire.Sent(ctx)
	applied, answered := make(chan answer, 1), make(chan answer, 1)
	if fate.applied >= 0 {
		time.AfterFunc(fate.applied, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			resp, err := apply()
			applied <- answer{resp, err}
		})
	}
	if fate.answered >= 0 {
		time.AfterFunc(fate.answered, func() {
			if fate.err != nil {
				answered <- answer{err: fate.err}
				return
			}
			answered <- <-applied
		})
	}
	select {
	case a := <-answered:
		return a.resp, a.err
	case <-ctx.Done():
		return *new(R), ctx.Err()
	}
}

func (f *fakeEtcd) header() *pb.ResponseHeader { return &pb.ResponseHeader{Revision: f.rev} }

func (f *fakeEtcd) publish(kind mvccpb.Event_EventType, pair *mvccpb.KeyValue) {
	for w := range f.watches {
		if inRange(pair.GetKey(), w.key, w.end) {
			w.events <- clientv3.WatchResponse{
				Header: f.header(), Events: []*clientv3.Event{{Type: kind, Kv: pair}},
			}
		}
	}
}

func inRange(key, from, to []byte) bool {
	if len(to) == 0 {
		return bytes.Equal(key, from)
	}
	return bytes.Compare(key, from) >= 0 && bytes.Compare(key, to) < 0
}

func (f *fakeEtcd) get(in *pb.RangeRequest) *pb.RangeResponse {
	resp := &pb.RangeResponse{Header: f.header()}
	for key, kv := range f.keys {
		tooNew := in.GetMaxCreateRevision() > 0 && kv.GetCreateRevision() > in.GetMaxCreateRevision()
		if inRange([]byte(key), in.GetKey(), in.GetRangeEnd()) && !tooNew {
			resp.Kvs = append(resp.Kvs, kv)
		}
	}
	slices.SortFunc(resp.GetKvs(), func(a, b *mvccpb.KeyValue) int {
		if in.GetSortTarget() != pb.RangeRequest_CREATE {
			return bytes.Compare(a.GetKey(), b.GetKey())
		}
		order := int(a.GetCreateRevision() - b.GetCreateRevision())
		if in.GetSortOrder() == pb.RangeRequest_DESCEND {
			order = -order
		}
		return order
	})
	resp.Count = int64(len(resp.GetKvs()))
	if limit := in.GetLimit(); limit > 0 && resp.GetCount() > limit {
		resp.Kvs, resp.More = resp.GetKvs()[:limit], true
	}
	return resp
}

// put puts a key at the current revision.
func (f *fakeEtcd) put(in *pb.PutRequest) error {
	if in.GetLease() != 0 && f.leases[in.GetLease()] == nil {
		return rpctypes.ErrGRPCLeaseNotFound
	}
	pair := &mvccpb.KeyValue{
		Key: in.GetKey(), Value: in.GetValue(), CreateRevision: f.rev, ModRevision: f.rev, Version: 1, Lease: in.GetLease(),
	}
	if was := f.keys[string(in.GetKey())]; was != nil {
		pair.CreateRevision, pair.Version = was.GetCreateRevision(), was.GetVersion()+1
	}
	f.keys[string(in.GetKey())] = pair
	f.publish(mvccpb.Event_PUT, pair)
	return nil
}

// remove deletes keys at the current revision.
func (f *fakeEtcd) remove(from, to []byte) (n int64) {
	for key := range f.keys {
		if inRange([]byte(key), from, to) {
			n++
			delete(f.keys, key)
			f.publish(mvccpb.Event_DELETE, &mvccpb.KeyValue{Key: []byte(key), ModRevision: f.rev})
		}
	}
	return n
}

func (f *fakeEtcd) holds(cmp *pb.Compare) bool {
	holds := func(kv *mvccpb.KeyValue) bool {
		got, want := kv.GetCreateRevision(), cmp.GetCreateRevision()
		if cmp.GetTarget() == pb.Compare_MOD {
			got, want = kv.GetModRevision(), cmp.GetModRevision()
		}
		if cmp.GetResult() == pb.Compare_LESS {
			return got < want
		}
		return got == want
	}
	if len(cmp.GetRangeEnd()) == 0 {
		return holds(f.keys[string(cmp.GetKey())])
	}
	for key, kv := range f.keys {
		if inRange([]byte(key), cmp.GetKey(), cmp.GetRangeEnd()) && !holds(kv) {
			return false
		}
	}
	return true
}

func (f *fakeEtcd) txn(in *pb.TxnRequest) (*pb.TxnResponse, error) {
	resp := &pb.TxnResponse{Succeeded: true}
	for _, cmp := range in.GetCompare() {
		resp.Succeeded = resp.GetSucceeded() && f.holds(cmp)
	}
	ops := in.GetSuccess()
	if !resp.GetSucceeded() {
		ops = in.GetFailure()
	}
	before := f.rev
	f.rev++ // that of what it writes
	wrote := false
	for _, op := range ops {
		out := &pb.ResponseOp{}
		switch op := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			out.Response = &pb.ResponseOp_ResponseRange{ResponseRange: f.get(op.RequestRange)}
		case *pb.RequestOp_RequestPut:
			if err := f.put(op.RequestPut); err != nil {
				f.rev = before
				return nil, err
			}
			wrote = true
			out.Response = &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{}}
		case *pb.RequestOp_RequestDeleteRange:
			n := f.remove(op.RequestDeleteRange.GetKey(), op.RequestDeleteRange.GetRangeEnd())
			wrote = wrote || n > 0
			out.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{Deleted: n}}
		}
		resp.Responses = append(resp.GetResponses(), out)
	}
	if !wrote {
		f.rev = before
	}
	resp.Header = f.header()
	return resp, nil
}

// fakeKV is the KV service.
type fakeKV struct {
	pb.KVClient

	f *fakeEtcd
}

func (k *fakeKV) Txn(ctx context.Context, in *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	return carry(ctx, k.f, "txn", func() (*pb.TxnResponse, error) { return k.f.txn(in) })
}

func (k *fakeKV) Range(ctx context.Context, in *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	return carry(ctx, k.f, "range", func() (*pb.RangeResponse, error) { return k.f.get(in), nil })
}

func (k *fakeKV) DeleteRange(
	ctx context.Context, in *pb.DeleteRangeRequest, _ ...grpc.CallOption,
) (*pb.DeleteRangeResponse, error) {
	return carry(ctx, k.f, "delete", func() (*pb.DeleteRangeResponse, error) {
		k.f.rev++
		n := k.f.remove(in.GetKey(), in.GetRangeEnd())
		if n == 0 {
			k.f.rev--
		}
		return &pb.DeleteRangeResponse{Header: k.f.header(), Deleted: n}, nil
	})
}

// fakeLeases is the lease service. The fates of fakeEtcd do not apply to its requests.
type fakeLeases struct {
	clientv3.Lease

	f *fakeEtcd
}

func (s *fakeLeases) carry(ctx context.Context, apply func() error) error {
	if !pause(ctx, s.f.lag()) {
		return ctx.Err()
	}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	return apply()
}

func (s *fakeLeases) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	out := &clientv3.LeaseGrantResponse{TTL: ttl}
	err := s.carry(ctx, func() error {
		id := s.f.rev<<8 + int64(len(s.f.leases)) + 1
		expiry := time.AfterFunc(time.Duration(ttl)*time.Second, func() {
			s.f.mu.Lock()
			defer s.f.mu.Unlock()
			s.f.expire(id)
		})
		s.f.leases[id] = &fakeLease{ttl: ttl, timer: expiry}
		s.f.rev++ // so that no ID is used twice
		out.ID, out.ResponseHeader = clientv3.LeaseID(id), s.f.header()
		return nil
	})
	return out, err
}

// expire ends a lease and deletes its keys.
func (f *fakeEtcd) expire(id int64) {
	delete(f.leases, id)
	f.rev++
	for key, kv := range f.keys {
		if kv.GetLease() == id {
			f.remove([]byte(key), nil)
		}
	}
}

func (s *fakeLeases) Revoke(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	err := s.carry(ctx, func() error {
		l := s.f.leases[int64(id)]
		if l == nil {
			return rpctypes.ErrLeaseNotFound
		}
		l.timer.Stop()
		s.f.expire(int64(id))
		return nil
	})
	return &clientv3.LeaseRevokeResponse{Header: &pb.ResponseHeader{}}, err
}

func (s *fakeLeases) TimeToLive(
	ctx context.Context, id clientv3.LeaseID, _ ...clientv3.LeaseOption,
) (*clientv3.LeaseTimeToLiveResponse, error) {
	out := &clientv3.LeaseTimeToLiveResponse{ResponseHeader: &pb.ResponseHeader{}, ID: id, TTL: -1}
	err := s.carry(ctx, func() error {
		if l := s.f.leases[int64(id)]; l != nil {
			out.TTL = l.ttl
		}
		return nil
	})
	return out, err
}

func (s *fakeLeases) KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	out := &clientv3.LeaseKeepAliveResponse{ResponseHeader: &pb.ResponseHeader{}, ID: id}
	err := s.carry(ctx, func() error {
		l := s.f.leases[int64(id)]
		if l == nil {
			return rpctypes.ErrLeaseNotFound
		}
		l.timer.Reset(time.Duration(l.ttl) * time.Second)
		out.TTL = l.ttl
		return nil
	})
	return out, err
}

// KeepAlive serves client/v3's concurrency package.
func (s *fakeLeases) KeepAlive(ctx context.Context, id clientv3.LeaseID) (<-chan *clientv3.LeaseKeepAliveResponse, error) {
	out := make(chan *clientv3.LeaseKeepAliveResponse)
	go func() {
		defer close(out)
		for {
			resp, err := s.KeepAliveOnce(ctx, id)
			if err != nil {
				return
			}
			select {
			case out <- resp:
			case <-ctx.Done():
				return
			}
			if !pause(ctx, time.Duration(resp.TTL)*time.Second/3) {
				return
			}
		}
	}()
	return out, nil
}

// fakeWatcher is the watch service. It reports all changes after the request.
type fakeWatcher struct {
	clientv3.Watcher

	f *fakeEtcd
}

func (s *fakeWatcher) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	op := clientv3.OpGet(key, opts...)
	w := &fakeWatch{key: []byte(key), end: op.RangeBytes(), events: make(chan clientv3.WatchResponse, 1000), broken: make(chan struct{})}
	out := make(chan clientv3.WatchResponse)
	go func() {
		defer close(out)
		if !s.wait(ctx) {
			return
		}
		s.f.mu.Lock()
		if s.f.cut {
			s.f.mu.Unlock()
			return
		}
		s.f.watches[w] = true
		w.events <- clientv3.WatchResponse{Header: s.f.header(), Created: true}
		s.f.mu.Unlock()
		defer func() {
			s.f.mu.Lock()
			defer s.f.mu.Unlock()
			delete(s.f.watches, w)
		}()
		for {
			select {
			case resp := <-w.events:
				if !s.wait(ctx) {
					return
				}
				select {
				case out <- resp:
				case <-ctx.Done():
					return
				}
			case <-w.broken:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// cutWatches breaks all watches and prevents new ones.
func (f *fakeEtcd) cutWatches() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = true
	for w := range f.watches {
		close(w.broken)
	}
}

// wait waits for one way over the link.
func (s *fakeWatcher) wait(ctx context.Context) bool {
	return pause(ctx, s.f.lag()/2)
}

// pause waits, and reports whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *fakeWatcher) Close() error                          { return nil }
func (s *fakeWatcher) RequestProgress(context.Context) error { return nil }

// mustEventually waits, in fake time, until f holds.
func mustEventually(t *testing.T, d time.Duration, f func() bool, message ...any) {
	t.Helper()
	for end := time.Now().Add(d); !f(); time.Sleep(10 * time.Millisecond) {
		require.True(t, time.Now().Before(end), message...)
	}
}
