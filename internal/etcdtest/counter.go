package etcdtest

import (
	"context"
	"maps"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// RPCCounter counts the RPCs of the clients it is given to, as gRPC sees them: every attempt
// counts, those that a retrying layer above makes and those that gRPC makes itself. Methods are
// named by service and method, such as "KV/Put".
type RPCCounter struct {
	mu        sync.Mutex
	attempts  map[string]int
	sent      map[string]int
	countOnly int
}

// Counter returns a counter at zero.
func Counter(tb testing.TB) *RPCCounter {
	tb.Helper()
	c := &RPCCounter{}
	c.Reset()
	return c
}

// Client returns a plain client of the shared server whose RPCs are counted, closed when the test
// ends.
func (c *RPCCounter) Client(tb testing.TB, opts ...func(*clientv3.Config)) *clientv3.Client {
	tb.Helper()
	return Client(tb, append(opts, c.Option)...)
}

// Option makes a client's RPCs count. It fits [Client], [Server.Client] and [Cluster.Client].
func (c *RPCCounter) Option(cfg *clientv3.Config) {
	cfg.DialOptions = append(cfg.DialOptions, c.DialOption())
}

// DialOption is what Option adds to a configuration.
func (c *RPCCounter) DialOption() grpc.DialOption {
	return grpc.WithStatsHandler((*rpcStats)(c))
}

// Count is the number of attempts of a method, such as "KV/Txn" or "Watch/Watch".
func (c *RPCCounter) Count(method string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.attempts[method]
}

// Sent is the number of messages that attempts of a method have put on the wire: on a stream such
// as "Lease/LeaseKeepAlive" one for each request.
func (c *RPCCounter) Sent(method string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent[method]
}

// Messages is the number of messages that were put on the wire, by method.
func (c *RPCCounter) Messages() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.sent)
}

// Total is the number of attempts of all methods.
func (c *RPCCounter) Total() int {
	total := 0
	for _, n := range c.Counts() {
		total += n
	}
	return total
}

// CountOnlyReads returns how many of the requests that were sent are reads that only count keys.
// Caches read in this way to learn the current revision, also by themselves when a busy machine has
// kept them waiting.
func (c *RPCCounter) CountOnlyReads() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.countOnly
}

// Counts is a copy of the attempts by method, for failure messages.
func (c *RPCCounter) Counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.attempts)
}

// Reset sets everything to zero.
func (c *RPCCounter) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attempts, c.sent, c.countOnly = map[string]int{}, map[string]int{}, 0
}

// rpcStats is the counter as gRPC wants it.
type rpcStats RPCCounter

type methodKey struct{}

// TagRPC remembers the method: "/etcdserverpb.KV/Put" as "KV/Put".
func (*rpcStats) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	name := strings.TrimPrefix(info.FullMethodName, "/")
	if dot, slash := strings.LastIndexByte(name, '.'), strings.LastIndexByte(name, '/'); dot < slash {
		name = name[dot+1:]
	}
	return context.WithValue(ctx, methodKey{}, name)
}

// HandleRPC counts.
func (s *rpcStats) HandleRPC(ctx context.Context, event stats.RPCStats) {
	name, _ := ctx.Value(methodKey{}).(string)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch event := event.(type) {
	case *stats.Begin:
		s.attempts[name]++
	case *stats.OutPayload:
		s.sent[name]++
		if get, ok := event.Payload.(*pb.RangeRequest); ok && get.GetCountOnly() {
			s.countOnly++
		}
	}
}

// TagConn is of no interest.
func (*rpcStats) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn is of no interest.
func (*rpcStats) HandleConn(context.Context, stats.ConnStats) {}
