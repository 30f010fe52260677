package sim_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/sim"
)

const (
	modelSequences = 4
	modelRequests  = 300
	sentinel       = "k/zz" // written last, and seen by every watch
)

// TestModel_AnswersAsEtcd runs random requests on the model and on a real server, and compares all
// answers and errors, and the events of watches. Both begin empty.
func TestModel_AnswersAsEtcd(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	direct := server.Client(t)
	for seed := range uint64(modelSequences) {
		if seed > 0 {
			server.Wipe()
			direct = server.Client(t)
		}
		requests := randomRequests(seed)
		want := transcribe(t, direct.ActiveConnection(), requests)
		var got *transcript
		synctest.Test(t, func(t *testing.T) {
			s := sim.New(seed, sim.Options{Members: 1, Version: server.Version()})
			defer s.Close()
			cli, err := s.Raw("a")
			require.NoError(t, err)
			defer func() { assert.NoError(t, cli.Close()) }()
			got = transcribe(t, cli.ActiveConnection(), requests)
		})
		for i := range requests {
			if !assert.Equal(t, want.answers[i], got.answers[i], "seed %d, request %d: %T %v", seed, i, requests[i], requests[i]) {
				return
			}
		}
		for i := range want.watches {
			if !assert.Equal(t, want.watches[i], got.watches[i], "seed %d, watch %d", seed, i) {
				return
			}
		}
	}
}

// transcript is what a server answered.
type transcript struct {
	answers []string
	watches []string
}

// transcribe sends requests, one after the other, and records the answers. Watches are opened as
// they come, and read until the sentinel.
func transcribe(t *testing.T, conn grpc.ClientConnInterface, requests []proto.Message) *transcript {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out := &transcript{}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, r := range requests {
		if w, ok := r.(*pb.WatchRequest); ok {
			i := len(out.watches)
			out.watches = append(out.watches, "")
			out.answers = append(out.answers, "")
			stream, err := pb.NewWatchClient(conn).Watch(ctx)
			require.NoError(t, err)
			require.NoError(t, stream.Send(w))
			caught := make(chan struct{})
			wg.Go(func() {
				text := readWatch(stream, w.GetCreateRequest().GetStartRevision(), caught)
				mu.Lock()
				defer mu.Unlock()
				out.watches[i] = text
			})
			<-caught
			continue
		}
		resp, err := invoke(ctx, conn, r)
		out.answers = append(out.answers, plainText(resp, err))
	}
	wg.Wait()
	return out
}

// readWatch reads until the sentinel or a cancellation. It closes caught when the watch has caught
// up: its first answer to a request for progress, or at once if it begins in the future.
func readWatch(stream pb.Watch_WatchClient, start int64, caught chan struct{}) string {
	var b strings.Builder
	up := sync.OnceFunc(func() { close(caught) })
	defer up()
	stop := make(chan struct{})
	defer close(stop)
	for {
		r, err := stream.Recv()
		if err != nil {
			fmt.Fprintln(&b, err)
			return b.String()
		}
		if r.Created && r.Header.Revision < start {
			up()
		} else if r.Created && !r.Canceled {
			go func() { // etcd answers only once all watches of the stream have caught up
				for {
					_ = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
					select {
					case <-stop:
						return
					case <-caught:
						return
					case <-time.After(20 * time.Millisecond): //nolint:forbidigo // between requests
					}
				}
			}()
		}
		if r.WatchId == clientv3.InvalidWatchID && !r.Canceled {
			up()
		}
		for _, e := range r.Events {
			fmt.Fprintln(&b, line(e))
			if string(e.Kv.Key) == sentinel {
				return b.String()
			}
		}
		if r.Canceled {
			fmt.Fprintln(&b, "canceled", r.CompactRevision, r.CancelReason, r.Created)
			return b.String()
		}
	}
}

func invoke(ctx context.Context, conn grpc.ClientConnInterface, r proto.Message) (proto.Message, error) {
	kv, leases := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	switch r := r.(type) {
	case *pb.RangeRequest:
		return kv.Range(ctx, r)
	case *pb.PutRequest:
		return kv.Put(ctx, r)
	case *pb.DeleteRangeRequest:
		return kv.DeleteRange(ctx, r)
	case *pb.TxnRequest:
		return kv.Txn(ctx, r)
	case *pb.CompactionRequest:
		return kv.Compact(ctx, r)
	case *pb.LeaseGrantRequest:
		return leases.LeaseGrant(ctx, r)
	case *pb.LeaseRevokeRequest:
		return leases.LeaseRevoke(ctx, r)
	case *pb.LeaseLeasesRequest:
		resp, err := leases.LeaseLeases(ctx, r)
		slices.SortFunc(resp.GetLeases(), func(a, b *pb.LeaseStatus) int { return int(a.ID - b.ID) })
		return resp, err
	case *pb.LeaseTimeToLiveRequest:
		resp, err := leases.LeaseTimeToLive(ctx, r)
		if resp != nil {
			slices.SortFunc(resp.Keys, slices.Compare)
			if resp.TTL > 0 {
				resp.TTL = 1 // the rest depends on the time
			}
		}
		return resp, err
	}
	panic(fmt.Sprintf("no method for %T", r))
}

// plainText returns a text for an answer without what differs between clusters.
func plainText(r proto.Message, err error) string {
	if err != nil {
		return err.Error()
	}
	forget(r.ProtoReflect())
	return line(r)
}

// line returns a message in a form that is the same for equal messages: prototext varies its
// spaces.
func line(m proto.Message) string { return strings.Join(strings.Fields(prototext.Format(m)), " ") }

// forget clears the IDs and terms in headers.
func forget(m protoreflect.Message) {
	if h, ok := m.Interface().(*pb.ResponseHeader); ok {
		h.ClusterId, h.MemberId, h.RaftTerm = 0, 0, 0
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				forget(v.List().Get(i).Message())
			}
		case f.Message() != nil && !f.IsMap():
			forget(v.Message())
		}
		return true
	})
}

// generator makes random requests. It follows the revision roughly, so that most requests succeed.
type generator struct {
	*rand.Rand

	rev, compacted int64
}

func randomRequests(seed uint64) []proto.Message {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 1)), rev: 1}
	var out []proto.Message
	for range modelRequests {
		out = append(out, g.request())
	}
	for range 60 { // beyond the revision at which the last watch starts
		out = append(out, &pb.PutRequest{Key: []byte("k/a")})
	}
	return append(out, &pb.PutRequest{Key: []byte(sentinel)}, &pb.RangeRequest{Key: []byte("k/"), RangeEnd: []byte("k0")})
}

func (g *generator) one(n int) bool { return g.IntN(n) == 0 }

func (g *generator) key() []byte { return []byte(fmt.Sprintf("k/%c", 'a'+g.IntN(6))) }

func (g *generator) lease() int64 { return int64(1 + g.IntN(4)) }

// span returns a range: mostly one that is not empty.
func (g *generator) span() (key, end []byte) {
	switch g.IntN(6) {
	case 0:
		return []byte("k/"), []byte("k0")
	case 1:
		return g.key(), []byte{0}
	case 2:
		return g.key(), g.key()
	}
	return g.key(), nil
}

func (g *generator) request() proto.Message {
	switch n := g.IntN(100); {
	case n < 35:
		g.rev++
		return g.put()
	case n < 60:
		return g.read()
	case n < 68:
		return g.remove()
	case n < 80:
		g.rev++
		return g.txn(2)
	case n < 83:
		g.compacted = max(g.compacted, g.rev-int64(g.IntN(15)))
		return &pb.CompactionRequest{Revision: g.compacted, Physical: true}
	case n < 87:
		return &pb.LeaseGrantRequest{ID: g.lease(), TTL: 1000}
	case n < 89:
		return &pb.LeaseRevokeRequest{ID: g.lease()}
	case n < 91:
		return &pb.LeaseTimeToLiveRequest{ID: g.lease(), Keys: g.one(2)}
	case n < 92:
		return &pb.LeaseLeasesRequest{}
	}
	key, end := g.span()
	if len(end) == 0 || string(key) >= string(end) && end[0] != 0 { // each watch sees the sentinel
		key, end = []byte("k/"), []byte("k0")
	}
	if end[0] != 0 && string(end) <= sentinel {
		end = []byte("k0")
	}
	r := &pb.WatchCreateRequest{Key: key, RangeEnd: end, PrevKv: g.one(2)}
	if g.one(2) {
		r.StartRevision = max(1, g.rev-int64(g.IntN(30)))
	}
	if g.one(4) {
		r.Filters = append(r.Filters, pb.WatchCreateRequest_NODELETE)
	}
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}
}

func (g *generator) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Value: []byte(strconv.Itoa(g.IntN(50))), PrevKv: g.one(3)}
	switch g.IntN(8) {
	case 0:
		r.Lease = g.lease()
	case 1:
		r.IgnoreLease = true
	case 2:
		r.IgnoreValue, r.Value = true, nil
	case 3:
		if g.one(5) {
			r.IgnoreValue = true // with a value
		}
	}
	if g.one(40) {
		r.Key = nil
	}
	return r
}

func (g *generator) remove() *pb.DeleteRangeRequest {
	key, end := g.span()
	if g.one(2) {
		end = nil
	}
	return &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: g.one(2)}
}

func (g *generator) read() *pb.RangeRequest {
	r := &pb.RangeRequest{
		Serializable: g.one(3), KeysOnly: g.one(5), CountOnly: g.one(8),
		SortOrder: pb.RangeRequest_SortOrder(g.IntN(3)), SortTarget: pb.RangeRequest_SortTarget(g.IntN(5)),
	}
	r.Key, r.RangeEnd = g.span()
	if g.one(2) {
		r.SortOrder, r.SortTarget = 0, 0
	}
	if g.one(3) {
		r.Limit = int64(g.IntN(4))
	}
	if g.one(4) {
		r.Revision = max(0, g.rev-int64(g.IntN(30))+2)
	}
	for _, f := range []*int64{&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision} {
		if g.one(10) {
			*f = max(0, g.rev-int64(g.IntN(20)))
		}
	}
	return r
}

func (g *generator) compare() *pb.Compare {
	c := &pb.Compare{Result: pb.Compare_CompareResult(g.IntN(4)), Target: pb.Compare_CompareTarget(g.IntN(5)), Key: g.key()}
	if g.one(4) {
		c.Key, c.RangeEnd = g.span()
	}
	n := int64(g.IntN(3))
	switch c.Target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: n}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: n * g.rev / 2}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: n * g.rev / 2}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: []byte(strconv.Itoa(g.IntN(50)))}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: n}
	}
	return c
}

func (g *generator) txn(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range g.IntN(3) {
		r.Compare = append(r.Compare, g.compare())
	}
	for _, ops := range []*[]*pb.RequestOp{&r.Success, &r.Failure} {
		for range g.IntN(4) {
			*ops = append(*ops, g.op(depth))
		}
	}
	return r
}

func (g *generator) op(depth int) *pb.RequestOp {
	switch n := g.IntN(10); {
	case n < 4:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.put()}}
	case n < 7:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.read()}}
	case n < 9 || depth == 0:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: g.remove()}}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.txn(depth - 1)}}
}
