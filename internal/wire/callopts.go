package wire

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// CallOptions returns the options that cli adds to each of its calls, such as the maximum size of a
// response. client/v3 does not export them, but passes them to its gRPC stub. Nothing is sent.
func CallOptions(cli *clientv3.Client) []grpc.CallOption {
	var r optionsRecorder
	_, _ = clientv3.NewKVFromKVClient(&r, cli).Get(cli.Ctx(), "\x00") // always returns errRecorded
	return r.options
}

// optionsRecorder is a gRPC stub that records the options of a read and returns an error.
type optionsRecorder struct {
	pb.KVClient

	options []grpc.CallOption
}

// errRecorded is the error of every read of an optionsRecorder.
var errRecorded = errors.New("options recorded")

// Range records the options.
func (r *optionsRecorder) Range(_ context.Context, _ *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	r.options = opts
	return nil, errRecorded
}
