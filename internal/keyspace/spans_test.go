package keyspace_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/keyspace"
)

func TestSpans(t *testing.T) {
	t.Parallel()
	type ranges = []keyspace.Range
	for _, c := range []struct {
		name, ns, prefix string
		want             ranges
	}{
		{
			"no namespace and no prefix is everything but the hidden dir", "", "",
			ranges{{From: "\x00", To: ".etcdkit/"}, {From: ".etcdkit0", To: "\x00"}},
		},
		{
			"a namespace is split at its hidden dir", "app/", "",
			ranges{{From: "app/\x00", To: "app/.etcdkit/"}, {From: "app/.etcdkit0", To: "app0"}},
		},
		{"a prefix elsewhere is one range", "app/", "users/", ranges{{From: "app/users/", To: "app/users0"}}},
		{
			"a partial prefix of the hidden dir is split", "app/", ".et",
			ranges{{From: "app/.et", To: "app/.etcdkit/"}, {From: "app/.etcdkit0", To: "app/.eu"}},
		},
		{
			"the hidden name without its slash is split", "", ".etcdkit",
			ranges{{From: ".etcdkit", To: ".etcdkit/"}, {From: ".etcdkit0", To: ".etcdkiu"}},
		},
		{"the hidden dir itself is given when asked for", "app/", ".etcdkit/", ranges{{From: "app/.etcdkit/", To: "app/.etcdkit0"}}},
		{"a dir in the hidden dir is given", "", ".etcdkit/once/", ranges{{From: ".etcdkit/once/", To: ".etcdkit/once0"}}},
		{"a prefix of 0xff ends with the namespace", "app/", "\xff", ranges{{From: "app/\xff", To: "app0"}}},
		{"another dot dir is not hidden", "", ".etcd/", ranges{{From: ".etcd/", To: ".etcd0"}}},
	} {
		assert.Equal(t, c.want, keyspace.Spans(c.ns, c.prefix), c.name)
	}
}

func TestWithin_ExcludesNamespaceItself(t *testing.T) {
	t.Parallel()
	assert.Zero(t, covered(keyspace.Spans("app/", ""), "app/"))
	assert.False(t, keyspace.Within("app/", "").Contains("app/"))
	assert.True(t, keyspace.Within("app/", "users/").Contains("app/users/"), "a key may be called as a prefix is")
	assert.True(t, keyspace.Within("app/", "").Contains("app/.etcdkit/once"), "the hidden dir is not cut out here")
}

func TestIsHidden(t *testing.T) {
	t.Parallel()
	assert.True(t, keyspace.IsHidden(".etcdkit/once/a"))
	assert.False(t, keyspace.IsHidden(".etcdkit"))
	assert.False(t, keyspace.IsHidden("a/.etcdkit/once"))
}

// covered counts the ranges that hold key.
func covered(spans []keyspace.Range, key string) int {
	n := 0
	for _, s := range spans {
		if s.Contains(key) {
			n++
		}
	}
	return n
}

func TestSpans_MatchFilter(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		ns := ""
		if r.IntN(4) > 0 {
			ns, _ = keyspace.Dir(randomKey(r, 2))
		}
		prefix := randomKey(r, 2)
		if r.IntN(3) == 0 {
			prefix = keyspace.Hidden[:r.IntN(len(keyspace.Hidden)+1)]
		}
		store := map[string]bool{}
		for range 300 {
			key := randomKey(r, 3)
			switch r.IntN(4) {
			case 0:
				key = ns + key
			case 1:
				key = ns + keyspace.Hidden[:r.IntN(len(keyspace.Hidden)+1)] + key
			case 2:
				key = ns + prefix + key
			}
			if key != "" {
				store[key] = true
			}
		}
		var want, got []string
		inHidden := strings.HasPrefix(prefix, keyspace.Hidden)
		spans := keyspace.Spans(ns, prefix)
		for key := range store {
			if key != ns && strings.HasPrefix(key, ns+prefix) && (inHidden || !strings.HasPrefix(key, ns+keyspace.Hidden)) {
				want = append(want, key)
			}
			for range covered(spans, key) {
				got = append(got, key)
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		require.Equal(t, want, got, "namespace %q prefix %q", ns, prefix)
	}
}

func FuzzSpans(f *testing.F) {
	f.Add("", "", ".etcdkit/x")
	f.Add("app", ".et", "app/.eta")
	f.Add("app/", "\xff", "app0")
	f.Add("a\xff", "", "a\xff/.etcdkit0")
	f.Add("/", "x", "x")
	f.Fuzz(func(t *testing.T, dir, prefix, key string) {
		ns, err := keyspace.Dir(dir)
		if err != nil || key == "" {
			return
		}
		spans := keyspace.Spans(ns, prefix)
		for i, s := range spans {
			require.False(t, s.Empty())
			require.Equal(t, s, keyspace.Within(ns, "").Intersect(s), "it leaves %q", ns)
			require.Equal(t, s, keyspace.Within(ns, prefix).Intersect(s), "it leaves %q", prefix)
			require.True(t, i == 0 || spans[i-1].To <= s.From, "%q are not in key order", spans)
		}
		for _, k := range []string{key, ns + key, ns + prefix + key, ns + keyspace.Hidden + key} {
			wanted := k != ns && strings.HasPrefix(k, ns+prefix) &&
				(strings.HasPrefix(prefix, keyspace.Hidden) || !strings.HasPrefix(k, ns+keyspace.Hidden))
			require.Equal(t, wanted, covered(spans, k) == 1, "%q in %q", k, spans)
			require.LessOrEqual(t, covered(spans, k), 1, "%q in %q", k, spans)
		}
	})
}

func BenchmarkSpans(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		keyspace.Spans("app/", "users/")
	}
}
