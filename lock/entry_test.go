package lock

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestParsePage_LeavesOutOwnAndNested(t *testing.T) {
	t.Parallel()
	p := parsePage("n/", "n/own", 7, &pb.RangeResponse{More: true, Kvs: []*mvccpb.KeyValue{
		{Key: []byte("n/a"), CreateRevision: 3, ModRevision: 5, Lease: 9, Value: []byte("v")},
		{Key: []byte("n/own")},
		{Key: []byte("n/x/y")},
	}})
	assert.Equal(t, &queuePage{entries: []entry{{key: "n/a", createRev: 3, modRev: 5, lease: 9, value: "v"}}, nested: []string{"n/x/y"}, rev: 7}, p)
	assert.Nil(t, p.oldest(), "there may be older ones")
	p.complete = true
	assert.Equal(t, "n/a", p.oldest().key)
}

func TestReaderRule_TakesNoWriterForReader(t *testing.T) {
	t.Parallel()
	l := &Locker{id: "1z"}
	for range 40_000 {
		e := entry{key: "m/694d-" + l.id + "." + strconv.FormatUint(l.lastNonce.Add(1), 36), lease: 1}
		blockers, _ := blockedByWriter([]entry{e})
		require.Len(t, blockers, 1, e.key)
	}
}

func TestIsDirectChild(t *testing.T) {
	t.Parallel()
	assert.True(t, isDirectChild("n/", "n/a"))
	assert.False(t, isDirectChild("n/", "n/"))
	assert.False(t, isDirectChild("n/", "n/a/b"))
	assert.False(t, isDirectChild("n/", "n/a/"))
}

// The ranges of emptyCompares together contain every direct child of the prefix and no nested key.
func TestEmptyCompares_CoverAllDirectChildren(t *testing.T) {
	t.Parallel()
	nested := []string{"n/b/x", "n/b/y/z", "n/a/1", "n/c/", "n/.rw/1"}
	within := func(key string) (n int) {
		for _, c := range emptyCompares("n/", nested) {
			if key >= string(c.KeyBytes()) && key < string(c.GetCompare().GetRangeEnd()) {
				n++
			}
		}
		return n
	}
	for _, key := range []string{"n/0", "n/a", "n/a.", "n/a0", "n/aa", "n/b", "n/bb", "n/b0", "n/c", "n/z", "n/.", "n/.rw", "n/.rw0", "n/\xff"} {
		assert.Equal(t, 1, within(key), key)
	}
	for _, key := range append(nested, "n/b/new", "n/a/", "m/x", "n", "n0", "o/x") {
		assert.Zero(t, within(key), key)
	}
	assert.Len(t, emptyCompares("n/", nil), 1)
}
