package kv_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

func TestTxn_IsRelativeToNamespace(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "a", "1")
	b.put(t, "out/x", "old")
	var rev int64
	b.costs(t, rpc("KV/Txn", 1), func() {
		r, err := b.Txn(t.Context()).
			If(clientv3.Compare(clientv3.Value("a"), "=", "1"), clientv3.Compare(clientv3.CreateRevision("b"), "=", 0)).
			Then(clientv3.OpPut("b", "2"), clientv3.OpGet("", clientv3.WithPrefix()), clientv3.OpDelete("out/", clientv3.WithPrefix(), clientv3.WithPrevKV())).
			Else(clientv3.OpGet("a")).
			Commit()
		require.NoError(t, err)
		assert.True(t, r.Succeeded)
		var keys []string
		for _, one := range r.Responses[1].GetResponseRange().GetKvs() {
			keys = append(keys, string(one.GetKey()))
		}
		assert.Equal(t, []string{"a", "b", "out/x"}, keys)
		assert.Equal(t, "out/x", string(r.Responses[2].GetResponseDeleteRange().GetPrevKvs()[0].GetKey()))
		rev = r.Header.GetRevision()
	})
	e, err := b.Get(t.Context(), "b")
	require.NoError(t, err)
	assert.Equal(t, rev, e.ModRevision)
}

func TestTxn_FailedCompareTakesElse(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "a", "1")
	g, _ := hold(t, b, errOwner)
	for name, txn := range map[string]clientv3.Txn{
		"plain":   b.Txn(t.Context()),
		"guarded": b.Txn(t.Context()).Guard(g),
	} {
		r, err := txn.If(clientv3.Compare(clientv3.Value("a"), "=", "2")).Then(clientv3.OpPut("b", "x")).Else(clientv3.OpGet("a")).Commit()
		require.NoError(t, err, name)
		assert.False(t, r.Succeeded, name)
		assert.NotZero(t, r.Header.GetRevision(), name)
		require.Len(t, r.Responses, 1, name)
		assert.Equal(t, "a", string(r.Responses[0].GetResponseRange().GetKvs()[0].GetKey()), name)
	}
	assert.Equal(t, "<none>", b.value(t, "b"))
}

func TestTxn_Nests(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "a", "1")
	inner := clientv3.OpTxn(
		[]clientv3.Cmp{clientv3.Compare(clientv3.Value("a"), "=", "1")},
		[]clientv3.Op{clientv3.OpPut("b", "then"), clientv3.OpGet("a")},
		[]clientv3.Op{clientv3.OpPut("b", "else")},
	)
	r, err := b.Txn(t.Context()).Then(inner).Commit()
	require.NoError(t, err)
	nested := r.Responses[0].GetResponseTxn()
	assert.True(t, nested.GetSucceeded())
	assert.Equal(t, "a", string(nested.GetResponses()[1].GetResponseRange().GetKvs()[0].GetKey()))
	assert.Equal(t, "then", b.value(t, "b"))
}

func TestTxn_StaysInNamespace(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	app, app2 := b.Namespace("app"), b.Namespace("app2")
	_, err := app2.Put(t.Context(), "secret", []byte("x"))
	require.NoError(t, err)
	for name, op := range map[string]clientv3.Op{
		"everything from a key":    clientv3.OpDelete("/", clientv3.WithFromKey()),
		"a range behind the last":  clientv3.OpDelete("/", clientv3.WithRange("\xff\xff\xff")),
		"the prefix of all bytes":  clientv3.OpDelete("\xff", clientv3.WithPrefix()),
		"the key of the neighbour": clientv3.OpPut("2/secret", "mine"),
		"a path to the neighbour":  clientv3.OpPut("../app2/secret", "mine"),
	} {
		_, err := app.Txn(t.Context()).Then(op).Commit()
		require.NoError(t, err, name)
		assert.Equal(t, "x", b.value(t, "app2/secret"), name)
	}
	everywhere := clientv3.Compare(clientv3.Value("\x00"), "=", "mine").WithRange("\x00")
	read := clientv3.OpGet("", clientv3.WithPrefix())
	_, err = app.Put(t.Context(), "k", []byte("mine"))
	require.NoError(t, err)
	_, err = app.Delete(t.Context(), "2/secret")
	require.NoError(t, err)
	r, err := app.Txn(t.Context()).If(everywhere).Then(read, clientv3.OpTxn([]clientv3.Cmp{everywhere}, nil, nil)).Commit()
	require.NoError(t, err)
	require.True(t, r.Succeeded, "the neighbour's value is not compared")
	assert.True(t, r.Responses[1].GetResponseTxn().GetSucceeded())
	for _, one := range r.Responses[0].GetResponseRange().GetKvs() {
		assert.Equal(t, "mine", string(one.GetValue()), "key %q", one.GetKey())
	}
}

func TestTxn_CommitRejectsInvalidTransaction(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	holds := clientv3.Compare(clientv3.Version("a"), "=", 0)
	put, get := clientv3.OpPut("a", "x"), clientv3.OpGet("a")
	begin := func() *kv.Txn { return b.Txn(t.Context()) }
	for name, txn := range map[string]clientv3.Txn{ //nolint:paralleltest // as above
		"no operations":            begin(),
		"compares alone":           begin().If(holds),
		"If twice":                 begin().If(holds).If(holds).Then(put),
		"If after Then":            begin().Then(put).If(holds),
		"If after Else":            begin().Else(put).If(holds),
		"Then twice":               begin().Then(put).Then(get),
		"Then after Else":          begin().Else(get).Then(put),
		"Else twice":               begin().Else(get).Else(get),
		"the zero Op":              begin().Then(clientv3.Op{}),
		"a nested zero Op":         begin().Then(clientv3.OpTxn(nil, nil, []clientv3.Op{{}})),
		"the zero Cmp":             begin().If(clientv3.Cmp{}).Then(put),
		"an empty key":             begin().Then(clientv3.OpPut("", "x")),
		"an empty key to read":     begin().Else(clientv3.OpGet("")),
		"an empty key to compare":  begin().If(clientv3.Compare(clientv3.Version(""), "=", 0)).Then(put),
		"an empty key, nested":     begin().Then(clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpDelete("")}, nil)),
		"a range that ends first":  begin().Then(clientv3.OpGet("b", clientv3.WithRange("a"))),
		"a key that is put twice":  begin().Then(put, clientv3.OpPut("a", "y")),
		"a key put and deleted":    begin().Then(put, clientv3.OpDelete("a")),
		"a key in a deleted range": begin().Else(clientv3.OpDelete("", clientv3.WithPrefix()), put),
		"a hidden key":             begin().Then(clientv3.OpPut(".etcdkit/x", "")),
		"a hidden key, deleted":    begin().Then(clientv3.OpDelete(".etcdkit/", clientv3.WithPrefix())),
		"a hidden key, nested":     begin().Then(clientv3.OpTxn(nil, nil, []clientv3.Op{clientv3.OpPut(".etcdkit/x", "")})),
		"a guard that is none":     begin().Guard(nil).Then(put),
		"a negative revision":      begin().Then(clientv3.OpGet("a", clientv3.WithRev(-1))),
		"a negative limit":         begin().Then(clientv3.OpGet("", clientv3.WithPrefix(), clientv3.WithLimit(-1))),
	} {
		t.Run(name, func(t *testing.T) {
			b.refused(t, func() error { _, err := txn.Commit(); return err }, kv.ErrInvalid)
		})
	}
	_, err := begin().If(holds).If(holds).Then(put).Then(put).Commit()
	require.ErrorContains(t, err, "If may be called once")
	require.ErrorContains(t, err, "Then may be called once")
	assert.Equal(t, "<none>", b.value(t, "a"))
}

func TestTxn_RejectsEmptyKey(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"", "app"} {
		s := etcdtest.Must(kv.New(etcdtest.Client(t), kv.WithNamespace(dir)))
		for name, op := range map[string]clientv3.Op{
			"put": clientv3.OpPut("", "v"), "delete": clientv3.OpDelete(""), "get": clientv3.OpGet(""),
		} {
			_, err := s.Txn(t.Context()).Then(op).Commit()
			require.EqualError(t, err, "kv: txn: "+name+": invalid argument: key is empty")
		}
	}
}

func TestTxn_CommitsOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	txn := b.Txn(t.Context()).Then(clientv3.OpPut("a", "x"))
	_, err := txn.Commit()
	require.NoError(t, err)
	b.refused(t, func() error { _, err := txn.Commit(); return err }, kv.ErrInvalid)
}

// manyPuts is n puts on keys of their own.
func manyPuts(n int) (ops []clientv3.Op) {
	for i := range n {
		ops = append(ops, clientv3.OpPut(fmt.Sprintf("many/%03d", i), "x"))
	}
	return ops
}

func TestTxn_ChecksLimitsBeforeSending(t *testing.T) { //nolint:tparallel // counts RPCs
	t.Parallel()
	b := newBench(t)
	g, _ := hold(t, b, errOwner)
	some := clientv3.Compare(clientv3.Version("a"), "=", 0)
	var cmps []clientv3.Cmp
	for range 129 {
		cmps = append(cmps, some)
	}
	begin := func() *kv.Txn { return b.Txn(t.Context()) }
	fits := map[string]clientv3.Txn{
		"128 operations":               begin().Then(manyPuts(128)...),
		"128 of each":                  begin().If(cmps[:128]...).Then(manyPuts(128)...).Else(manyPuts(128)...),
		"a nested one with 127":        begin().Then(clientv3.OpTxn(nil, manyPuts(127), nil)),
		"64 nested ones with 64":       begin().Else(nested(64, 64)...),
		"three floors":                 begin().Then(clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpTxn(nil, manyPuts(126), nil)}, nil)),
		"a guard and 126 operations":   begin().Guard(g).Then(manyPuts(126)...),
		"an If and Else of 128, empty": begin().If(cmps[:128]...).Else(clientv3.OpGet("a")),
	}
	for name, txn := range fits {
		_, err := txn.Commit()
		require.NoError(t, err, name)
	}
	tooMany := map[string]clientv3.Txn{
		"129 operations":         begin().Then(manyPuts(129)...),
		"129 other operations":   begin().Else(manyPuts(129)...),
		"129 compares":           begin().If(cmps...).Then(clientv3.OpGet("a")),
		"10,000 operations":      begin().Then(manyPuts(10_000)...),
		"a nested one with 128":  begin().Then(clientv3.OpTxn(nil, manyPuts(128), nil)),
		"65 nested ones with 64": begin().Else(nested(65, 64)...),
		"three floors":           begin().Then(clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpTxn(nil, manyPuts(127), nil)}, nil)),
		"a guard and 127":        begin().Guard(g).Then(manyPuts(127)...),
	}
	for name, txn := range tooMany { //nolint:paralleltest // as above
		t.Run(name, func(t *testing.T) {
			b.refused(t, func() error { _, err := txn.Commit(); return err }, kv.ErrTooLarge, kv.ErrInvalid)
		})
	}
	_, err := begin().Then(manyPuts(129)...).Commit()
	require.ErrorContains(t, err, "129")
	require.ErrorContains(t, err, "128")
}

// nested is n transactions of so many reads each.
func nested(n, reads int) (ops []clientv3.Op) {
	var gets []clientv3.Op
	for range reads {
		gets = append(gets, clientv3.OpGet("a"))
	}
	for range n {
		ops = append(ops, clientv3.OpTxn(nil, gets, nil))
	}
	return ops
}

// What the checks do not see, etcd does: the error is the same.
func TestTxn_RejectsDuplicateKeysInNestedTxn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	put := []clientv3.Op{clientv3.OpPut("a", "x")}
	_, err := b.Txn(t.Context()).Then(clientv3.OpTxn(nil, put, nil), clientv3.OpTxn(nil, put, nil)).Commit()
	require.ErrorIs(t, err, kv.ErrInvalid)
}
