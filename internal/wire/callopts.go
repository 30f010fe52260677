package wire

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// CallOptions returns the options that cli gives to each of its calls, such as the size of what it receives. Client/v3
// does not tell them, but hands them to the stub of whatever is made for it. Nothing is sent.
func CallOptions(cli *clientv3.Client) []grpc.CallOption {
	var heard optionsListener
	_, _ = clientv3.NewKVFromKVClient(&heard, cli).Get(cli.Ctx(), "\x00") // the listener always refuses
	return heard.options
}

// optionsListener is a stub that refuses to read and remembers with which options it was asked to.
type optionsListener struct {
	pb.KVClient

	options []grpc.CallOption
}

var errListening = errors.New("a listener answers nothing")

// Range notes the options.
func (l *optionsListener) Range(_ context.Context, _ *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	l.options = opts
	return nil, errListening
}
