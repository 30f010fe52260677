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

// The keepalive that a hardened client uses where the configuration says nothing: a connection that is dead or frozen is
// found within 14 s while a stream is open on it. By default etcd allows a ping every 5 s, gRPC one every 10 s.
const (
	KeepAliveTime    = 10 * time.Second
	KeepAliveTimeout = 4 * time.Second
	keepAliveLeast   = 10 * time.Second // gRPC raises anything shorter to this
)

// hardened marks a configuration.
type hardened struct{ grpc.EmptyDialOption }

// Harden changes cfg so that every promise about writes holds over the client made from it: one wire attempt for each
// unary call, the sent-probe, require-leader where it belongs, and keepalive pings while calls are open.
func Harden(cfg *clientv3.Config) error {
	if cfg == nil {
		return fmt.Errorf("%w: no configuration to harden", errs.Invalid)
	}
	var complaints []error
	if cfg.DialKeepAliveTime != 0 && cfg.DialKeepAliveTime < keepAliveLeast {
		complaints = append(complaints, fmt.Errorf("%w: keepalive time %v is below %v", errs.Invalid, cfg.DialKeepAliveTime, keepAliveLeast))
	}
	if cfg.PermitWithoutStream {
		complaints = append(complaints, fmt.Errorf("%w: servers drop clients that ping without a stream (PermitWithoutStream)", errs.Invalid))
	}
	if err := errors.Join(complaints...); err != nil {
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
		return nil // twice is once
	}
	cfg.DialOptions = slices.Concat([]grpc.DialOption{grpc.WithConnectParams(reconnect())}, cfg.DialOptions, []grpc.DialOption{
		hardened{},
		grpc.WithPerRPCCredentials(peerObserver{}),
		grpc.WithChainUnaryInterceptor(hardenUnary),
		grpc.WithChainStreamInterceptor(hardenStream),
	})
	return nil
}

// reconnect is how fast connections are tried again. Left alone, gRPC waits up to two minutes between two attempts, and
// the calls that wait for a connection do not hurry it: a client would stay dead long after etcd is back.
func reconnect() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
		MinConnectTimeout: 5 * time.Second,
	}
}

// Hardened reports whether cli was made from a configuration that went through [Harden]: whether its connection has the
// observer of peers. A mark elsewhere, in the context for one, could come from another client, and a client that is taken
// for a hardened one sends writes again that it must not.
func Hardened(cli *clientv3.Client) bool {
	conn := reflect.ValueOf(cli.ActiveConnection())
	if conn.IsNil() {
		return false
	}
	creds := conn.Elem()
	for _, name := range []string{"dopts", "copts", "PerRPCCredentials"} {
		if creds = creds.FieldByName(name); !creds.IsValid() {
			return false // gRPC is not as it was: nothing is proved
		}
	}
	for i := range creds.Len() {
		if creds.Index(i).Elem().Type() == reflect.TypeFor[peerObserver]() {
			return true
		}
	}
	return false
}

// needsLeader lists the services whose answers are wrong, late or missing on a member that is cut off. Status, member
// lists and health checks are left out: they are asked of a member that may well be cut off.
func needsLeader(method string) bool {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	switch service {
	case "etcdserverpb.KV", "etcdserverpb.Lease", "etcdserverpb.Watch":
		return true
	}
	return false
}

// serializable reports whether all that a request does is read serializably, which a member can do without a leader. A
// transaction is one by the server's own rule: each of its operations is a serializable get, and none is a transaction. One
// without operations is not counted, since its compares could be out of date.
func serializable(req any) bool {
	switch req := req.(type) {
	case *pb.RangeRequest:
		return req.GetSerializable()
	case *pb.TxnRequest:
		linearizable := func(op *pb.RequestOp) bool { return !op.GetRequestRange().GetSerializable() }
		return len(req.GetSuccess())+len(req.GetFailure()) > 0 &&
			!slices.ContainsFunc(req.GetSuccess(), linearizable) && !slices.ContainsFunc(req.GetFailure(), linearizable)
	}
	return false
}

// WithoutInterceptor is an option for a hardened client that has no credentials of client/v3's own. It takes away client/v3's
// interceptor of unary calls, which makes one attempt there and no more, renews those credentials, adds the version to the
// metadata as outgoing does, and allocates fifteen objects in each call.
func WithoutInterceptor() grpc.DialOption {
	return grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return invoke(ctx, method, req, reply, cc, opts...)
	})
}

func hardenUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if a := attemptOf(ctx); a != nil {
		if a.via != nil && a.via != grpc.ClientConnInterface(cc) {
			return a.via.Invoke(ctx, method, req, reply, opts...) // which is hardened as well
		}
		a.observed.Store(true)
		opts = observeSent(a, opts)
	}
	ctx = outgoing(ctx, needsLeader(method) && !serializable(req))
	return invoke(ctx, method, req, reply, cc, opts...)
}

func hardenStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if a := attemptOf(ctx); a != nil {
		if a.via != nil && a.via != grpc.ClientConnInterface(cc) {
			return a.via.NewStream(ctx, desc, method, opts...)
		}
		opts = observeSent(a, opts)
	}
	if needsLeader(method) {
		ctx = clientv3.WithRequireLeader(ctx)
	}
	return open(ctx, desc, cc, method, opts...)
}

// The metadata of calls that have none of their own. Nobody changes it.
//
//nolint:gochecknoglobals // constants of a map type
var (
	versionMetadata = metadata.Pairs(rpctypes.MetadataClientAPIVersionKey, version.APIVersion)
	leaderMetadata  = metadata.Pairs(rpctypes.MetadataClientAPIVersionKey, version.APIVersion, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
)

// outgoing returns ctx with the metadata of a call: the version of the client, as client/v3 has it, and whether the member
// needs a leader to answer.
func outgoing(ctx context.Context, leader bool) context.Context {
	md, ok := metadata.FromOutgoingContext(ctx) // a copy
	switch {
	case !ok && leader:
		return metadata.NewOutgoingContext(ctx, leaderMetadata)
	case !ok:
		return metadata.NewOutgoingContext(ctx, versionMetadata)
	}
	md.Set(rpctypes.MetadataClientAPIVersionKey, version.APIVersion)
	if leader {
		md.Set(rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	}
	return metadata.NewOutgoingContext(ctx, md)
}
