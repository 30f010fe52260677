package keyspace_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

func TestEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, prefix, want string }{
		{"a slash becomes a zero", "app/", "app0"},
		{"a trailing 0xff is dropped", "a\xff", "b"},
		{"several trailing 0xff are dropped", "a\xff\xff", "b"},
		{"an inner 0xff stays", "a\xffb", "a\xffc"},
		{"nothing but 0xff has no end", "\xff\xff", "\x00"},
		{"no prefix has no end", "", "\x00"},
		{"a NUL byte ends at the next byte", "\x00", "\x01"},
	} {
		assert.Equal(t, c.want, keyspace.End(c.prefix), c.name)
	}
}

func TestAfter_ReturnsNextKey(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "a\x00", keyspace.After("a"))
	assert.True(t, keyspace.One("").Empty(), "there is no empty key")
	one := keyspace.One("a")
	assert.True(t, one.Contains("a"))
	assert.False(t, one.Contains("a\x00"))
	assert.False(t, one.Contains("A"))
}

func TestAll_ContainsEveryKey(t *testing.T) {
	t.Parallel()
	all := keyspace.All()
	assert.False(t, all.Empty())
	assert.True(t, all.Contains("\x00"))
	assert.True(t, all.Contains("\xff\xff\xff"))
	assert.Equal(t, all, keyspace.Under(""))
	assert.Equal(t, keyspace.Under("a/"), all.Intersect(keyspace.Under("a/")))
	assert.Equal(t, keyspace.Under("a/"), keyspace.Under("a/").Intersect(all))
	assert.True(t, keyspace.Range{}.Empty())
	assert.True(t, keyspace.Range{From: "b", To: "a"}.Empty())
}

// randomKey draws from few bytes, the awkward ones among them, so that prefixes and bounds are
// often hit.
func randomKey(r *rand.Rand, most int) string {
	const bytes = "a/.e\x00\x01\xfe\xff"
	var b strings.Builder
	for range r.IntN(most + 1) {
		b.WriteByte(bytes[r.IntN(len(bytes))])
	}
	return b.String()
}

func TestRange_OperationsMatchContains(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	drawRange := func() keyspace.Range {
		if r.IntN(3) == 0 {
			return keyspace.Under(randomKey(r, 3))
		}
		return keyspace.Range{From: randomKey(r, 3), To: randomKey(r, 3)}
	}
	for range 50_000 {
		a, b := drawRange(), drawRange()
		both := a.Intersect(b)
		key := randomKey(r, 4)
		require.Equal(t, a.Contains(key) && b.Contains(key), both.Contains(key),
			"%q in %q and %q: %q", key, a, b, both)
		if a.Empty() {
			require.False(t, a.Contains(key), "%q is empty but holds %q", a, key)
		}
		require.Equal(t, both, a.Intersect(both), "%q covers its part %q", a, both)
		require.Equal(t, both, b.Intersect(both), "%q covers its part %q", b, both)
	}
}

func FuzzEnd(f *testing.F) {
	for _, prefix := range []string{"", "app/", "a\xff", "\xff\xff", "\x00"} {
		f.Add(prefix, prefix+"x")
	}
	f.Fuzz(func(t *testing.T, prefix, key string) {
		require.Equal(t, clientv3.GetPrefixRangeEnd(prefix), keyspace.End(prefix), "etcd's client agrees")
		under := keyspace.Under(prefix)
		if key != "" {
			require.Equal(t, strings.HasPrefix(key, prefix), under.Contains(key), "%q under %q", key, prefix)
		}
		require.True(t, under.Contains(prefix+key) || prefix+key == "")
	})
}
