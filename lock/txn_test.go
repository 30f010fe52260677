package lock

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/kv"
)

// refusingKV rejects every request at once until a given time, like a member without a leader.
type refusingKV struct {
	clientv3.KV

	err     error
	until   time.Time
	refused int
}

func (k *refusingKV) Do(ctx context.Context, _ clientv3.Op) (clientv3.OpResponse, error) {
	if err := ctx.Err(); err != nil {
		return clientv3.OpResponse{}, err
	}
	if time.Now().Before(k.until) {
		k.refused++
		return clientv3.OpResponse{}, k.err
	}
	resp := &clientv3.TxnResponse{Header: &pb.ResponseHeader{Revision: 5}, Succeeded: true}
	return resp.OpResponse(), nil
}

var errBroken = status.Error(codes.Unavailable, "error reading from server: EOF")

func TestLocker_RequestOutlastsManyRefusals(t *testing.T) {
	t.Parallel()
	read := func(l *Locker, ctx context.Context) (txnResult, error) {
		return l.read(ctx, "read", clientv3.OpGet("k"))
	}
	put := txn{op: "put", then: []clientv3.Op{clientv3.OpPut("k", "")}}
	create := func(l *Locker, ctx context.Context) (txnResult, error) { return l.commitCreation(ctx, put) }
	change := func(l *Locker, ctx context.Context) (txnResult, error) { return l.commit(ctx, put) }
	for name, one := range map[string]struct {
		send func(l *Locker, ctx context.Context) (txnResult, error)
		err  error
	}{
		"read, no leader":              {read, rpctypes.ErrNoLeader},
		"create, no leader":            {create, rpctypes.ErrNoLeader},
		"change, no leader":            {change, rpctypes.ErrNoLeader},
		"read, connections break":      {read, errBroken},
		"create, connections break":    {create, errBroken},
		"change, connections break":    {change, errBroken},
		"create, the server times out": {create, rpctypes.ErrTimeout},
		"change, the server times out": {change, rpctypes.ErrTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cli := clientv3.NewCtxClient(t.Context())
				fake := &refusingKV{err: one.err, until: time.Now().Add(5 * time.Minute)}
				cli.KV = fake
				sender, err := retry.SenderOf(etcdtest.Must(kv.New(cli)))
				require.NoError(t, err)
				l := &Locker{sender: sender}
				ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
				defer stop()
				resp, err := one.send(l, ctx)
				require.NoError(t, err)
				assert.EqualValues(t, 5, resp.revision())
				assert.Less(t, time.Since(fake.until), 5*time.Second)
				assert.Greater(t, fake.refused, 60)
			})
		})
	}
}
