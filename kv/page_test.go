package kv_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

// readPages reads all pages and returns the keys of each.
func readPages(t *testing.T, s *kv.Store, prefix string, limit int) (pages [][]string) {
	t.Helper()
	var c kv.Cursor
	for {
		p, err := s.Page(t.Context(), prefix, limit, c)
		require.NoError(t, err)
		keys := []string{}
		for _, e := range p.Entries {
			keys = append(keys, e.Key)
		}
		pages = append(pages, keys)
		if c = p.Cursor; c == "" {
			return pages
		}
	}
}

func TestPage_YieldsPrefixInOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, key := range []string{"a/5", "a/1", "a/3", "a/2", "a/4", "a", "a0", "ab/1", "a/"} {
		b.put(t, key, "x")
	}
	assert.Equal(t, [][]string{{"a/", "a/1"}, {"a/2", "a/3"}, {"a/4", "a/5"}}, readPages(t, b.Store, "a/", 2))
	assert.Equal(t, [][]string{{"a/", "a/1", "a/2", "a/3", "a/4"}, {"a/5"}}, readPages(t, b.Store, "a/", 5))
	assert.Equal(t, [][]string{{"a/", "a/1", "a/2", "a/3", "a/4", "a/5"}}, readPages(t, b.Store, "a/", 6))
	assert.Equal(t, [][]string{{"a/", "a/1", "a/2", "a/3", "a/4", "a/5"}}, readPages(t, b.Store, "a/", math.MaxInt))
	assert.Equal(t, [][]string{{}}, readPages(t, b.Store, "none/", 1))
	assert.Equal(t, [][]string{{"a", "a/", "a/1", "a/2"}, {"a/3", "a/4", "a/5", "a0"}, {"ab/1"}}, readPages(t, b.Store, "", 4))
}

func TestPage_ShowsRevisionOfFirstPage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var last int64
	for i := range 5 {
		last = b.put(t, fmt.Sprintf("a/%d", i), "old")
	}
	var first, second kv.Page[[]byte]
	b.costs(t, rpc("KV/Range", 1), func() {
		var err error
		first, err = b.Page(t.Context(), "a/", 2, "")
		require.NoError(t, err)
	})
	assert.GreaterOrEqual(t, first.Revision, last)
	assert.EqualValues(t, 5, first.Total)
	assert.Equal(t, "old", string(first.Entries[0].Value))

	b.put(t, "a/2", "new")
	b.remove(t, "a/3")
	b.put(t, "a/9", "new")
	b.costs(t, rpc("KV/Range", 1), func() {
		var err error
		second, err = b.Page(t.Context(), "a/", 10, first.Cursor)
		require.NoError(t, err)
	})
	assert.Equal(t, first.Revision, second.Revision)
	assert.Equal(t, first.Total, second.Total)
	assert.Empty(t, second.Cursor)
	var got []string
	for _, e := range second.Entries {
		got = append(got, e.Key+"="+string(e.Value))
	}
	assert.Equal(t, []string{"a/2=old", "a/3=old", "a/4=old"}, got)
}

func TestPage_CostsOneRPC(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(t, "\x00", "x")
	b.put(t, "~", "x")
	_, err := b.Put(t.Context(), "m", nil, kv.WithOnce()) // leaves a hidden key in between
	require.NoError(t, err)
	b.costs(t, rpc("KV/Txn", 1), func() {
		p, err := b.Page(t.Context(), "", 10, "")
		require.NoError(t, err)
		assert.Len(t, p.Entries, 3)
		assert.EqualValues(t, 3, p.Total)
		assert.NotZero(t, p.Revision)
	})
	assert.Equal(t, [][]string{{"\x00"}, {"m"}, {"~"}}, readPages(t, b.Store, "", 1))
}

func TestCursor_IsURLSafe(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, key := range []string{"a/\x00", "a/\xff\xff?&=#", "a/~ü/+", "a/" + strings.Repeat("k", 2000)} {
		b.put(t, key, "x")
	}
	c := kv.Cursor("")
	for range 3 {
		p, err := b.Page(t.Context(), "a/", 1, c)
		require.NoError(t, err)
		c = p.Cursor
		assert.Regexp(t, regexp.MustCompile(`^[A-Za-z0-9_-]+$`), string(c))
	}
	assert.Len(t, readPages(t, b.Store, "a/", 1), 4)
}

func TestCursor_SurvivesDeletedKeyButNotCompaction(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	b := privateBench(t, server)
	for i := range 4 {
		b.put(t, fmt.Sprintf("a/%d", i), "x")
	}
	p, err := b.Page(t.Context(), "a/", 2, "")
	require.NoError(t, err)
	b.remove(t, "a/1")
	next, err := b.Page(t.Context(), "a/", 2, p.Cursor)
	require.NoError(t, err)
	assert.Equal(t, "a/2", next.Entries[0].Key)

	server.Compact(0)
	_, err = b.Page(t.Context(), "a/", 2, p.Cursor)
	require.ErrorIs(t, err, kv.ErrCompacted)
}

func TestPage_RejectsInvalidCursor(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i := range 3 {
		b.put(t, fmt.Sprintf("a/%d", i), "x")
	}
	p, err := b.Page(t.Context(), "a/", 1, "")
	require.NoError(t, err)
	good := string(p.Cursor)
	bytes, err := base64.RawURLEncoding.DecodeString(good)
	require.NoError(t, err)
	forged := func(b []byte) kv.Cursor { return kv.Cursor(base64.RawURLEncoding.EncodeToString(b)) }

	for name, c := range map[string]kv.Cursor{
		"garbage":               "garbage",
		"what is not base64":    "???",
		"padding":               kv.Cursor(good + "=="),
		"nothing but a version": forged(bytes[:1]),
		"half of one":           forged(bytes[:4]),
		"no key":                forged(bytes[:len(bytes)-1]),
		"another version":       forged(append([]byte{99}, bytes[1:]...)),
		"no revision":           forged(append([]byte{1, 0}, bytes[3:]...)),
		"an endless number":     forged([]byte{1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}),
	} {
		b.refused(t, func() error { _, err := b.Page(t.Context(), "a/", 1, c); return err }, kv.ErrInvalid)
		_, err := b.Page(t.Context(), "a/", 1, c)
		require.ErrorIs(t, err, kv.ErrInvalid, name)
	}
	b.refused(t, func() error { _, err := b.Page(t.Context(), "b/", 1, p.Cursor); return err }, kv.ErrInvalid)
	b.refused(t, func() error { _, err := b.Namespace("x").Page(t.Context(), "a/", 1, p.Cursor); return err }, kv.ErrInvalid)
	b.refused(t, func() error { _, err := b.Page(t.Context(), "", 1, p.Cursor); return err }, kv.ErrInvalid)
	q, err := b.Namespace("a").Page(t.Context(), "", 1, p.Cursor)
	require.NoError(t, err, "the same keys by another way")
	assert.Equal(t, "1", q.Entries[0].Key)
}

func TestPage_RejectsInvalidLimit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, limit := range []int{0, -1, math.MinInt} {
		b.refused(t, func() error { _, err := b.Page(t.Context(), "a/", limit, ""); return err }, kv.ErrInvalid)
	}
	b.refused(t, func() error { _, err := b.Page(t.Context(), "a", 1, ""); return err }, kv.ErrInvalid)
}

// fakeRangeServer remembers which ranges are read.
type fakeRangeServer struct {
	pb.KVClient

	asked []*pb.RangeRequest
}

func (s *fakeRangeServer) Range(_ context.Context, in *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	s.asked = append(s.asked, in)
	return &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 1}}, nil
}

// Whatever is in a cursor, it is refused, or what it reads lies below the prefix.
func FuzzCursor(f *testing.F) {
	f.Add("")
	f.Add("AQEBAAAAAGs")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte{1, 1, 1, 0, 0, 0, 0, 'k'}))
	f.Add(base64.RawURLEncoding.EncodeToString(append([]byte{1, 5, 9}, "\x93\x06\x33\x1b\xff\xff\xff"...)))
	f.Fuzz(func(t *testing.T, c string) {
		spy := &fakeRangeServer{}
		cli := clientv3.NewCtxClient(t.Context())
		cli.KV = clientv3.NewKVFromKVClient(spy, nil)
		_, err := etcdtest.Must(kv.New(cli, kv.WithNamespace("app"))).Page(t.Context(), "p/", 10, kv.Cursor(c))
		if err != nil {
			require.ErrorIs(t, err, kv.ErrInvalid)
			require.Empty(t, spy.asked)
			return
		}
		require.Len(t, spy.asked, 1)
		in := spy.asked[0]
		require.GreaterOrEqual(t, string(in.GetKey()), "app/p/")
		require.Less(t, string(in.GetKey()), string(in.GetRangeEnd()))
		require.Equal(t, "app/p0", string(in.GetRangeEnd()))
		require.GreaterOrEqual(t, in.GetRevision(), int64(0))
	})
}
