package config_test

import (
	"context"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
)

// open opens a source of the dir "conf", which is closed when the test ends.
func open(tb testing.TB, c config.Client, o ...config.Option) *config.Source {
	tb.Helper()
	s, err := config.Open(tb.Context(), c, "conf", o...)
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, s.Close()) })
	return s
}

// put writes a key of the dir "conf" as another process would.
func put(tb testing.TB, p *parttest.Parts, key, value string) int64 {
	tb.Helper()
	rev, err := p.KV().Put(tb.Context(), "conf/"+key, []byte(value))
	require.NoError(tb, err)
	return rev
}

func del(tb testing.TB, p *parttest.Parts, key string) int64 {
	tb.Helper()
	rev, err := p.KV().Delete(tb.Context(), "conf/"+key)
	require.NoError(tb, err)
	return rev
}

// waitForRevision waits until a source shows a revision.
func waitForRevision(tb testing.TB, s *config.Source, rev int64) {
	tb.Helper()
	require.Eventually(tb, func() bool { return s.Status().Origin == config.Live && s.Status().Revision >= rev }, parttest.Timeout, time.Millisecond)
}

// contents returns the keys and values of a source.
func contents(s *config.Source) map[string]string {
	out := map[string]string{}
	for key, value := range s.All() {
		out[key] = string(value)
	}
	return out
}

// errorReport is a call of the error handler.
type errorReport struct {
	key string
	rev int64
	err error
}

// recordErrors returns an error handler and the recorder of its calls.
func recordErrors() (*parttest.Recorder[errorReport], config.Option) {
	l := &parttest.Recorder[errorReport]{}
	return l, config.WithErrorHandler(func(key string, rev int64, err error) { l.Add(errorReport{key, rev, err}) })
}

var (
	revision     = regexp.MustCompile(`revision \d+`)
	revisionAttr = regexp.MustCompile(`revision=\d+`)
)

// withoutRevision returns the text of an error, with N for the revision.
func withoutRevision(err error) string { return revision.ReplaceAllString(err.Error(), "revision N") }

// fakeKV is a KV that calls a function right before each transaction is committed.
type fakeKV struct {
	clientv3.KV

	before func(ctx context.Context)
}

func (i *fakeKV) Txn(ctx context.Context) clientv3.Txn {
	return &fakeTxn{Txn: i.KV.Txn(ctx), ctx: ctx, before: i.before}
}

type fakeTxn struct {
	clientv3.Txn

	ctx    context.Context
	before func(ctx context.Context)
}

func (t *fakeTxn) If(cs ...clientv3.Cmp) clientv3.Txn {
	t.Txn = t.Txn.If(cs...)
	return t
}

func (t *fakeTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	t.Txn = t.Txn.Then(ops...)
	return t
}

func (t *fakeTxn) Else(ops ...clientv3.Op) clientv3.Txn {
	t.Txn = t.Txn.Else(ops...)
	return t
}

func (t *fakeTxn) Commit() (*clientv3.TxnResponse, error) {
	if t.before != nil {
		t.before(t.ctx)
	}
	return t.Txn.Commit()
}
