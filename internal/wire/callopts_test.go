package wire_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/wire"
)

func TestCallOptions_ReturnsOptionsOfClient(t *testing.T) {
	t.Parallel()
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{"127.0.0.1:1"}, MaxCallRecvMsgSize: 12345})
	require.NoError(t, err)
	t.Cleanup(func() { _ = cli.Close() })
	assert.Contains(t, wire.CallOptions(cli), grpc.MaxCallRecvMsgSize(12345))
}
