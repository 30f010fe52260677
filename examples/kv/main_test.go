package main

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/etcdtest"
	"github.com/etcdkit/etcdkit/examples/internal/exampletest"
	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
	"github.com/etcdkit/etcdkit/kv"
)

func TestMain(m *testing.M) { testmain.Run(m) }

func TestRun_EachWriteTellsItsOutcome(t *testing.T) {
	assert.Equal(t, `create: applied, once
create again: not applied, it exists
update: applied, once, stock is 9
replace the state before that: not applied, it was changed or removed meanwhile
delete the state before that: not applied, it was changed or removed meanwhile
delete the current state: applied, once
batch: applied, once
a transaction has moved milk to the archive: true
moved one coffee: applied, once
moved one milk: not applied: sold out
listed: archive/milk {"stock":1}
listed: items/coffee {"stock":4}
listed: items/display {"stock":1}
put with a TTL of 2 s, and expired: voucher
`, exampletest.Output(t, run))
}

func TestRun_EndsOnCtrlC(t *testing.T) {
	exampletest.Interrupt(t, run, "listed: items/coffee")
}

func TestOutcome_LostAnswerIsNotARefusal(t *testing.T) {
	t.Parallel()
	var lose atomic.Bool // the next answer to a write
	client := etcdtest.Open(t, etcdkit.WithDialOptions(grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoke(ctx, method, req, reply, cc, opts...)
			if err == nil && strings.HasPrefix(method, "/etcdserverpb.KV/") && lose.CompareAndSwap(true, false) {
				return status.Error(codes.Unavailable, "error reading from server: EOF")
			}
			return err
		},
	)))

	lose.Store(true)
	_, err := client.KV().Put(t.Context(), "key", []byte("1"))
	assert.Equal(t, "perhaps applied", outcome(err))
	lose.Store(true)
	_, err = client.KV().Put(t.Context(), "key", []byte("2"), kv.WithOnce())
	assert.Equal(t, "applied, once", outcome(err))
	assert.False(t, lose.Load(), "an answer was lost")
	_, err = client.KV().Put(t.Context(), "", nil)
	assert.Contains(t, outcome(err), "not applied: ")
}
