package kv_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// entriesOf prints what a get has returned, as far as it does not depend on when the keys were
// written.
func entriesOf(r *pb.RangeResponse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "count %d, more %t:", r.GetCount(), r.GetMore())
	for _, kv := range r.GetKvs() {
		fmt.Fprintf(&b, " %q=%q v%d", kv.GetKey(), kv.GetValue(), kv.GetVersion())
	}
	return b.String()
}

// Two stores have the same keys, and one of them keys of the library between them. Their
// transactions read the same.
func TestTxn_GetsOmitLibraryKeys(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	clean, used := etcdtest.Must(kv.New(b.cli, kv.WithNamespace(b.dir+"clean"))), etcdtest.Must(kv.New(b.cli, kv.WithNamespace(b.dir+"used")))
	for i, key := range []string{"z", "a", "+", "users/1", "-", ".", ".etcd", "/", "0", "m", "a"} {
		value := fmt.Sprint(i*7%5, key)
		_, err := clean.Put(t.Context(), key, []byte(value))
		require.NoError(t, err)
		_, err = used.Put(t.Context(), key, []byte(value), kv.WithOnce())
		require.NoError(t, err)
	}
	slots, err := b.raw.Get(t.Context(), b.dir+"used/.etcdkit/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	require.NoError(t, err)
	require.Positive(t, slots.Count, "else nothing is hidden")

	options := map[string][]clientv3.OpOption{"none": nil, "count": {clientv3.WithCountOnly()}, "keys": {clientv3.WithKeysOnly()}}
	for target := clientv3.SortByKey; target <= clientv3.SortByValue; target++ {
		for order := clientv3.SortNone; order <= clientv3.SortDescend; order++ {
			for limit := range int64(4) {
				name := fmt.Sprint("sort by ", target, " order ", order, " limit ", 3*limit)
				options[name] = []clientv3.OpOption{clientv3.WithSort(target, order), clientv3.WithLimit(3 * limit)}
			}
		}
	}
	for name, opts := range options {
		for _, r := range [][2]string{{"", ""}, {"-", "m"}, {".", "/"}, {"+", "."}, {"0", "z"}, {".e", ".f"}, {".etcdkit/", "b"}} {
			get := clientv3.OpGet(r[0], append([]clientv3.OpOption{clientv3.WithRange(r[1])}, opts...)...)
			if r[0] == "" {
				get = clientv3.OpGet("", append([]clientv3.OpOption{clientv3.WithPrefix()}, opts...)...)
			}
			var read [2]*clientv3.TxnResponse
			for i, s := range []*kv.Store{clean, used} {
				read[i], err = s.Txn(t.Context()).
					If(clientv3.Compare(clientv3.Version("z"), "=", 1)).
					Then(get, clientv3.OpGet("a"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("z"), get}, nil)).
					Else(clientv3.OpGet("m")).
					Commit()
				require.NoError(t, err)
				require.True(t, read[i].Succeeded)
			}
			what := fmt.Sprintf("%s of %q", name, r)
			assert.Equal(t, entriesOf(read[0].Responses[0].GetResponseRange()), entriesOf(read[1].Responses[0].GetResponseRange()), what)
			nested := func(i int) string {
				return entriesOf(read[i].Responses[2].GetResponseTxn().GetResponses()[1].GetResponseRange())
			}
			assert.Equal(t, nested(0), nested(1), what)
			assert.Equal(t, "a", string(read[1].Responses[1].GetResponseRange().GetKvs()[0].GetKey()), what)
		}
	}

	// They are there for who asks for them, and in the branch that is not taken nothing is merged.
	r, err := used.Txn(t.Context()).Then(clientv3.OpGet(".etcdkit/", clientv3.WithPrefix())).Commit()
	require.NoError(t, err)
	assert.Equal(t, slots.Count, r.Responses[0].GetResponseRange().GetCount())
	all := clientv3.OpGet("", clientv3.WithPrefix())
	g, _ := hold(t, b, errOwner)
	r, err = used.Txn(t.Context()).Guard(g).If(clientv3.Compare(clientv3.Version("z"), "=", 7)).Then(clientv3.OpGet("z")).Else(all, clientv3.OpPut("new", "")).Commit()
	require.NoError(t, err)
	assert.NotContains(t, keysOf(r.Responses[0].GetResponseRange().GetKvs()), ".etcdkit/")
	assert.EqualValues(t, 10, r.Responses[0].GetResponseRange().GetCount())

	many := make([]clientv3.Op, 127)
	for i := range many {
		many[i] = all
	}
	_, err = used.Txn(t.Context()).Then(many...).Commit()
	require.ErrorIs(t, err, kv.ErrTooLarge)
	_, err = used.Txn(t.Context()).Then(many[:126]...).Commit()
	require.NoError(t, err)
}
