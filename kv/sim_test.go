package kv_test

import (
	"bytes"
	"context"
	"net"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/wire"
)

// simCluster is an etcd cluster in memory, for tests in virtual time. Requests are applied one
// after the other to one history; what differs between members is how long a request takes, and
// whether it comes to an answer.
type simCluster struct {
	mu        sync.Mutex
	rev       int64
	compacted int64
	history   map[string][]*mvccpb.KeyValue // by key, in order; Version 0 is a deletion
	leases    int64
	next      int           // the member that the balancer picks next
	requests  []*simRequest // in the order in which they were sent

	members []string
	// plan says what happens to the n-th request, from 0. nil: it takes rtt.
	plan func(n int, r *simRequest) simFate
	rtt  time.Duration
}

// simFate is what happens to one request: when it is applied, and when its answer arrives, since it
// was sent. Negative times are never. err is the answer instead of that of etcd.
type simFate struct {
	applied, answered time.Duration
	err               error
}

// simRequest is one request that was sent.
type simRequest struct {
	member string
	req    any
	second bool // it came over a connection to one member
	yes    bool // it was a transaction whose compares held, or another write, and was applied
}

func newSimCluster(members ...string) *simCluster {
	return &simCluster{rev: 1, history: map[string][]*mvccpb.KeyValue{}, members: members}
}

// client returns a client of client/v3 over the cluster, without a connection.
func (c *simCluster) client(ctx context.Context) *clientv3.Client {
	cli := clientv3.NewCtxClient(ctx)
	cli.KV = clientv3.NewKVFromKVClient(simStub{cluster: c}, cli)
	cli.Lease = simLease{cluster: c}
	return cli
}

// sent is how many requests were sent.
func (c *simCluster) sent() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.requests)
}

// simAddr is the address of a member.
type simAddr string

func (simAddr) Network() string  { return "sim" }
func (a simAddr) String() string { return string(a) }

var _ net.Addr = simAddr("")

// simConn is a connection to one member.
type simConn struct {
	grpc.ClientConnInterface

	member string
}

// simMembers makes second attempts at the member after the slow one.
type simMembers struct{ cluster *simCluster }

func (m simMembers) Other(addr string) (grpc.ClientConnInterface, func(), bool) {
	all := m.cluster.members
	if len(all) < 2 {
		return nil, nil, false
	}
	return &simConn{member: all[(slices.Index(all, addr)+1)%len(all)]}, func() {}, true
}

func (simMembers) Evicted(string) (bool, <-chan struct{}) { return false, nil }
func (simMembers) HasSeveral() bool                       { return true }
func (simMembers) ReportSlow(string)                      {}

// simLease grants leases.
type simLease struct {
	clientv3.Lease

	cluster *simCluster
}

func (l simLease) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	return deliver(ctx, l.cluster, ttl, func(*simRequest) (*clientv3.LeaseGrantResponse, error) {
		l.cluster.leases++
		return &clientv3.LeaseGrantResponse{ID: clientv3.LeaseID(l.cluster.leases), TTL: ttl}, nil
	})
}

// simStub carries requests to the cluster.
type simStub struct {
	pb.KVClient

	cluster *simCluster
}

func (s simStub) Range(ctx context.Context, in *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	return deliver(ctx, s.cluster, in, func(*simRequest) (*pb.RangeResponse, error) { return s.cluster.get(in) })
}

func (s simStub) Put(ctx context.Context, in *pb.PutRequest, _ ...grpc.CallOption) (*pb.PutResponse, error) {
	return deliver(ctx, s.cluster, in, func(r *simRequest) (*pb.PutResponse, error) {
		r.yes = true
		s.cluster.rev++
		s.cluster.put(in)
		return &pb.PutResponse{Header: s.cluster.header()}, nil
	})
}

func (s simStub) DeleteRange(ctx context.Context, in *pb.DeleteRangeRequest, _ ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	return deliver(ctx, s.cluster, in, func(r *simRequest) (*pb.DeleteRangeResponse, error) {
		r.yes = true
		n := s.cluster.remove(in, s.cluster.rev+1)
		if n > 0 {
			s.cluster.rev++
		}
		return &pb.DeleteRangeResponse{Header: s.cluster.header(), Deleted: n}, nil
	})
}

func (s simStub) Txn(ctx context.Context, in *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	return deliver(ctx, s.cluster, in, func(r *simRequest) (*pb.TxnResponse, error) {
		c := s.cluster
		before := c.rev
		c.rev++ // that of the transaction's writes
		resp, wrote, err := c.txn(in)
		if !wrote {
			c.rev = before
		}
		resp.Header = c.header()
		r.yes = resp.GetSucceeded()
		return resp, err
	})
}

// deliver sends one request. It is on its way whatever becomes of ctx.
func deliver[R any](ctx context.Context, c *simCluster, req any, apply func(r *simRequest) (R, error)) (R, error) {
	var none R
	if ctx.Err() != nil {
		return none, ctx.Err()
	}
	c.mu.Lock()
	r := &simRequest{req: req}
	if via, ok := wire.Via(ctx).(*simConn); ok {
		r.member, r.second = via.member, true
	} else {
		r.member = c.members[c.next%len(c.members)]
		c.next++
	}
	fate := simFate{applied: c.rtt / 2, answered: c.rtt}
	if c.plan != nil {
		fate = c.plan(len(c.requests), r)
	}
	c.requests = append(c.requests, r)
	c.mu.Unlock()
	wire.SentTo(ctx, simAddr(r.member))
	wire.Sent(ctx)
	type answer struct {
		resp R
		err  error
	}
	answered := make(chan answer, 1)
	deadline := make(chan answer, 1)
	if fate.applied >= 0 {
		time.AfterFunc(fate.applied, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			resp, err := apply(r)
			answered <- answer{resp, err}
		})
	}
	if fate.answered >= 0 {
		time.AfterFunc(fate.answered, func() {
			if fate.err != nil {
				deadline <- answer{err: fate.err}
				return
			}
			deadline <- <-answered
		})
	}
	select {
	case a := <-deadline:
		return a.resp, a.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

func (c *simCluster) header() *pb.ResponseHeader { return &pb.ResponseHeader{Revision: c.rev} }

// at returns key as of rev, nil if it is absent.
func (c *simCluster) at(key string, rev int64) *mvccpb.KeyValue {
	versions := c.history[key]
	for _, kv := range slices.Backward(versions) {
		if kv.ModRevision > rev {
			continue
		}
		if kv.Version == 0 {
			return nil
		}
		return kv
	}
	return nil
}

func (c *simCluster) get(in *pb.RangeRequest) (*pb.RangeResponse, error) {
	rev := c.rev
	switch {
	case in.GetRevision() > c.rev:
		return nil, rpctypes.ErrFutureRev
	case in.GetRevision() > 0:
		rev = in.GetRevision()
	}
	if rev < c.compacted {
		return nil, rpctypes.ErrCompacted
	}
	resp := &pb.RangeResponse{Header: c.header()}
	for key := range c.history {
		if kv := c.at(key, rev); kv != nil && intersect([]byte(key), in.GetKey(), in.GetRangeEnd()) {
			resp.Count++
			if !in.GetCountOnly() {
				resp.Kvs = append(resp.Kvs, kv)
			}
		}
	}
	slices.SortFunc(resp.GetKvs(), func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.GetKey(), b.GetKey()) })
	return resp, nil
}

func intersect(key, from, to []byte) bool {
	if len(to) == 0 {
		return bytes.Equal(key, from)
	}
	return bytes.Compare(key, from) >= 0 && (bytes.Equal(to, []byte{0}) || bytes.Compare(key, to) < 0)
}

func (c *simCluster) put(in *pb.PutRequest) {
	key := string(in.GetKey())
	kv := &mvccpb.KeyValue{Key: in.GetKey(), Value: in.GetValue(), CreateRevision: c.rev, ModRevision: c.rev, Version: 1, Lease: in.GetLease()}
	if was := c.at(key, c.rev); was != nil {
		kv.CreateRevision, kv.Version = was.GetCreateRevision(), was.GetVersion()+1
	}
	c.history[key] = append(c.history[key], kv)
}

func (c *simCluster) remove(in *pb.DeleteRangeRequest, rev int64) (n int64) {
	for key := range c.history {
		if c.at(key, rev) != nil && intersect([]byte(key), in.GetKey(), in.GetRangeEnd()) {
			c.history[key] = append(c.history[key], &mvccpb.KeyValue{Key: []byte(key), ModRevision: rev})
			n++
		}
	}
	return n
}

// txn carries out a transaction at the current revision.
func (c *simCluster) txn(in *pb.TxnRequest) (resp *pb.TxnResponse, wrote bool, err error) {
	resp = &pb.TxnResponse{Succeeded: true}
	for _, cmp := range in.GetCompare() {
		resp.Succeeded = resp.GetSucceeded() && c.holds(cmp)
	}
	ops := in.GetSuccess()
	if !resp.GetSucceeded() {
		ops = in.GetFailure()
	}
	for _, op := range ops {
		out := &pb.ResponseOp{}
		switch op := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			r, err := c.get(op.RequestRange)
			if err != nil {
				return resp, wrote, err
			}
			out.Response = &pb.ResponseOp_ResponseRange{ResponseRange: r}
		case *pb.RequestOp_RequestPut:
			c.put(op.RequestPut)
			wrote = true
			out.Response = &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{}}
		case *pb.RequestOp_RequestDeleteRange:
			n := c.remove(op.RequestDeleteRange, c.rev)
			wrote = wrote || n > 0
			out.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{Deleted: n}}
		case *pb.RequestOp_RequestTxn:
			r, inner, err := c.txn(op.RequestTxn)
			if err != nil {
				return resp, wrote, err
			}
			wrote = wrote || inner
			out.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: r}
		}
		resp.Responses = append(resp.GetResponses(), out)
	}
	return resp, wrote, nil
}

// holds evaluates a compare for equality, which is all that the store sends.
func (c *simCluster) holds(cmp *pb.Compare) bool {
	kv := c.at(string(cmp.GetKey()), c.rev)
	switch target := cmp.GetTargetUnion().(type) {
	case *pb.Compare_ModRevision:
		return kv.GetModRevision() == target.ModRevision
	case *pb.Compare_CreateRevision:
		return kv.GetCreateRevision() == target.CreateRevision
	case *pb.Compare_Value:
		return kv != nil && bytes.Equal(kv.GetValue(), target.Value)
	}
	panic("compare of another kind")
}
