package wire

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/metadata"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// The default keepalive of a hardened client. A dead or frozen connection is detected within 14 s
// while a stream is open on it. By default etcd allows a ping every 5 s, gRPC one every 10 s.
const (
	KeepAliveTime    = 10 * time.Second
	KeepAliveTimeout = 4 * time.Second
	minKeepAliveTime = 10 * time.Second // gRPC raises anything shorter to this
)

// hardened marks a configuration that Harden has changed.
type hardened struct{ grpc.EmptyDialOption }

// Harden changes cfg so that all guarantees about writes hold for its client: one attempt on the
// wire for each unary call, observed requests, require-leader on the calls that need it, and
// keepalive pings while calls are open.
func Harden(cfg *clientv3.Config) error {
	if cfg == nil {
		return fmt.Errorf("%w: no configuration to harden", errs.Invalid)
	}
	var all []error
	if cfg.DialKeepAliveTime != 0 && cfg.DialKeepAliveTime < minKeepAliveTime {
		all = append(all, fmt.Errorf("%w: keepalive time %v is below %v", errs.Invalid, cfg.DialKeepAliveTime, minKeepAliveTime))
	}
	if cfg.PermitWithoutStream {
		all = append(all, fmt.Errorf("%w: servers drop clients that ping without a stream (PermitWithoutStream)", errs.Invalid))
	}
	if err := errors.Join(all...); err != nil {
		return err
	}
	if cfg.DialKeepAliveTime == 0 {
		cfg.DialKeepAliveTime = KeepAliveTime
	}
	if cfg.DialKeepAliveTimeout == 0 {
		cfg.DialKeepAliveTimeout = KeepAliveTimeout
	}
	cfg.MaxUnaryRetries = 1
	if slices.Contains(cfg.DialOptions, grpc.DialOption(hardened{})) {
		return nil // Harden is idempotent
	}
	cfg.DialOptions = slices.Concat([]grpc.DialOption{grpc.WithConnectParams(connectParams())}, cfg.DialOptions, []grpc.DialOption{
		hardened{},
		grpc.WithPerRPCCredentials(peerObserver{}),
		grpc.WithChainUnaryInterceptor(hardenUnary),
		grpc.WithChainStreamInterceptor(hardenStream),
	})
	return nil
}

// connectParams limits the backoff between attempts to connect. By default gRPC waits up to two
// minutes, even if calls wait for a connection: a client would not work until long after etcd is
// available again.
func connectParams() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
		MinConnectTimeout: 5 * time.Second,
	}
}

// Hardened reports whether cli was created from a configuration that [Harden] has changed: whether
// its connection has a peerObserver. A mark elsewhere, such as in the context, could come from
// another client, and unsafe writes of a client that is not hardened would be repeated.
func Hardened(cli *clientv3.Client) bool {
	conn := reflect.ValueOf(cli.ActiveConnection())
	if conn.IsNil() {
		return false
	}
	creds := conn.Elem()
	for _, name := range []string{"dopts", "copts", "PerRPCCredentials"} {
		if creds = creds.FieldByName(name); !creds.IsValid() {
			return false // another version of gRPC: nothing is proved
		}
	}
	for i := range creds.Len() {
		if creds.Index(i).Elem().Type() == reflect.TypeFor[peerObserver]() {
			return true
		}
	}
	return false
}

// requiresLeader reports whether the responses of a partitioned member to method would be wrong,
// late or missing. Status, member lists and health checks also serve to examine partitioned
// members.
func requiresLeader(method string) bool {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	switch service {
	case "etcdserverpb.KV", "etcdserverpb.Lease", "etcdserverpb.Watch":
		return true
	}
	return false
}

// isSerializable reports whether a request only makes serializable reads, which a member can do
// without a leader. A transaction does so, by the server's rule, if each of its operations is a
// serializable get and none is a transaction. A transaction without operations does not count,
// because a member without a leader could evaluate its compares on outdated data.
func isSerializable(req any) bool {
	switch req := req.(type) {
	case *pb.RangeRequest:
		return req.GetSerializable()
	case *pb.TxnRequest:
		isLinearizable := func(op *pb.RequestOp) bool { return !op.GetRequestRange().GetSerializable() }
		return len(req.GetSuccess())+len(req.GetFailure()) > 0 &&
			!slices.ContainsFunc(req.GetSuccess(), isLinearizable) && !slices.ContainsFunc(req.GetFailure(), isLinearizable)
	}
	return false
}

// WithoutInterceptor returns an option for a hardened client without credentials of client/v3. It
// replaces the unary interceptor of client/v3, which would make a single attempt, renew those
// credentials, add the version to the metadata as withMetadata does, and allocate fifteen objects
// per call.
func WithoutInterceptor() grpc.DialOption {
	return grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return invoke(ctx, method, req, reply, cc, opts...)
	})
}

func hardenUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if a := attemptOf(ctx); a != nil {
		if a.via != nil && a.via != grpc.ClientConnInterface(cc) {
			return a.via.Invoke(ctx, method, req, reply, opts...) // hardened as well
		}
		a.observed.Store(true)
		opts = observeSent(a, opts)
	}
	ctx = withMetadata(ctx, requiresLeader(method) && !isSerializable(req))
	return invoke(ctx, method, req, reply, cc, opts...)
}

func hardenStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if a := attemptOf(ctx); a != nil {
		if a.via != nil && a.via != grpc.ClientConnInterface(cc) {
			return a.via.NewStream(ctx, desc, method, opts...)
		}
		opts = observeSent(a, opts)
	}
	if requiresLeader(method) {
		ctx = clientv3.WithRequireLeader(ctx)
	}
	return open(ctx, desc, cc, method, opts...)
}

// The metadata of calls without any of their own. It is never changed.
//
//nolint:gochecknoglobals // constants of a map type
var (
	versionMetadata = metadata.Pairs(rpctypes.MetadataClientAPIVersionKey, version.APIVersion)
	leaderMetadata  = metadata.Pairs(rpctypes.MetadataClientAPIVersionKey, version.APIVersion, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
)

// withMetadata returns ctx with the metadata of a call: the version of the client, as in client/v3,
// and require-leader if it is set.
func withMetadata(ctx context.Context, requireLeader bool) context.Context {
	md, ok := metadata.FromOutgoingContext(ctx) // a copy
	switch {
	case !ok && requireLeader:
		return metadata.NewOutgoingContext(ctx, leaderMetadata)
	case !ok:
		return metadata.NewOutgoingContext(ctx, versionMetadata)
	}
	md.Set(rpctypes.MetadataClientAPIVersionKey, version.APIVersion)
	if requireLeader {
		md.Set(rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	}
	return metadata.NewOutgoingContext(ctx, md)
}
