package wire_test

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/wire"
)

// Hardened reads private fields of gRPC. If they have moved, it returns false for every client, and
// the outcome of many writes is unknown.
func TestHardened_FindsThePrivateFieldsOfGRPC(t *testing.T) {
	t.Parallel()
	at := reflect.TypeFor[grpc.ClientConn]()
	for _, name := range []string{"dopts", "copts", "PerRPCCredentials"} {
		field, ok := at.FieldByName(name)
		require.True(t, ok, "%v has no field %s: change Hardened", at, name)
		at = field.Type
	}
	assert.Equal(t, reflect.TypeFor[[]credentials.PerRPCCredentials](), at)
	assert.True(t, wire.Hardened(etcdtest.Client(t, hardened(t))))
}

// KV and GrantRepeats depend on private fields and the names of private types of client/v3.
func TestKV_FindsThePrivateFieldsOfClientV3(t *testing.T) {
	t.Parallel()
	cli := etcdtest.Client(t, hardened(t))
	kv := reflect.TypeOf(cli.KV).Elem()
	field, ok := kv.FieldByName("remote")
	require.True(t, ok, "%v has no field remote: change isClientKV", kv)
	assert.Equal(t, reflect.Interface, field.Type.Kind())
	_, observed := wire.KV(cli)
	assert.True(t, observed)
	assert.Equal(t, "*clientv3.lessor", reflect.TypeOf(cli.Lease).String())
	assert.Equal(t, "*clientv3.watcher", reflect.TypeOf(clientv3.NewWatcher(cli)).String(), "package watch depends on it")
}
