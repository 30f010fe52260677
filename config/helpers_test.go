package config_test

import (
	"context"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/watch"
)

// within bounds what a test waits for. Nothing takes that long unless it is broken.
const within = 30 * time.Second

// parts is what a source takes of a client.
type parts struct {
	store   *kv.Store
	watcher *watch.Watcher
}

func (p parts) KV() *kv.Store           { return p.store }
func (p parts) Watcher() *watch.Watcher { return p.watcher }

// over makes the parts of a client below dir, whose watcher is closed when the test ends.
func over(tb testing.TB, cli *clientv3.Client, dir string) parts {
	tb.Helper()
	w := etcdtest.Must(watch.New(cli, watch.WithNamespace(dir)))
	tb.Cleanup(func() { assert.NoError(tb, w.Close()) })
	return parts{store: etcdtest.Must(kv.New(cli, kv.WithNamespace(dir))), watcher: w}
}

// shared is the parts of a client of the shared server, in a namespace of the test's own.
func shared(tb testing.TB) parts {
	tb.Helper()
	return over(tb, etcdtest.Client(tb), etcdtest.Prefix(tb))
}

// open opens a source of the dir "conf", which is closed when the test ends.
func open(tb testing.TB, c config.Client, o ...config.Option) *config.Source {
	tb.Helper()
	s, err := config.Open(tb.Context(), c, "conf", o...)
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, s.Close()) })
	return s
}

// put writes a key of the dir "conf" as somebody else would.
func put(tb testing.TB, p parts, key, value string) int64 {
	tb.Helper()
	rev, err := p.store.Put(tb.Context(), "conf/"+key, []byte(value))
	require.NoError(tb, err)
	return rev
}

func del(tb testing.TB, p parts, key string) int64 {
	tb.Helper()
	rev, err := p.store.Delete(tb.Context(), "conf/"+key)
	require.NoError(tb, err)
	return rev
}

// reached waits until a source shows a revision.
func reached(tb testing.TB, s *config.Source, rev int64) {
	tb.Helper()
	require.Eventually(tb, func() bool { return s.Status().Origin == config.Live && s.Status().Revision >= rev }, within, time.Millisecond)
}

// all is what a source has.
func all(s *config.Source) map[string]string {
	out := map[string]string{}
	for key, value := range s.All() {
		out[key] = string(value)
	}
	return out
}

// log keeps what it is told.
type log[E any] struct {
	mu   sync.Mutex
	list []E
}

func (l *log[E]) add(e E) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
}

func (l *log[E]) all() []E {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]E(nil), l.list...)
}

// awaitRevision waits for the n-th entry, and returns it.
func (l *log[E]) await(tb testing.TB, n int) E {
	tb.Helper()
	require.Eventually(tb, func() bool { return len(l.all()) >= n }, within, time.Millisecond)
	return l.all()[n-1]
}

// problem is what the error handler is told.
type problem struct {
	key string
	rev int64
	err error
}

// problems is an error handler that keeps what it is told.
func problems() (*log[problem], config.Option) {
	l := &log[problem]{}
	return l, config.WithErrorHandler(func(key string, rev int64, err error) { l.add(problem{key, rev, err}) })
}

var (
	revision     = regexp.MustCompile(`revision \d+`)
	revisionAttr = regexp.MustCompile(`revision=\d+`)
)

// withoutRevision is the text of an error that names a revision.
func withoutRevision(err error) string { return revision.ReplaceAllString(err.Error(), "revision N") }

// interloper is a KV that lets something happen right before a transaction.
type interloper struct {
	clientv3.KV

	before func(ctx context.Context)
}

func (i *interloper) Txn(ctx context.Context) clientv3.Txn {
	return &interrupted{Txn: i.KV.Txn(ctx), ctx: ctx, by: i.before}
}

type interrupted struct {
	clientv3.Txn

	ctx context.Context
	by  func(ctx context.Context)
}

func (t *interrupted) If(cs ...clientv3.Cmp) clientv3.Txn {
	t.Txn = t.Txn.If(cs...)
	return t
}

func (t *interrupted) Then(ops ...clientv3.Op) clientv3.Txn {
	t.Txn = t.Txn.Then(ops...)
	return t
}

func (t *interrupted) Else(ops ...clientv3.Op) clientv3.Txn {
	t.Txn = t.Txn.Else(ops...)
	return t
}

func (t *interrupted) Commit() (*clientv3.TxnResponse, error) {
	if t.by != nil {
		t.by(t.ctx)
	}
	return t.Txn.Commit()
}
