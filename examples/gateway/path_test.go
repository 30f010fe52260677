package main

import (
	"net/url"
	"path"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whatever is accepted has one reading: its segments, escaped again, are the same path for every
// program that reads it.
func FuzzSegmentsOf(f *testing.F) {
	for _, one := range []string{
		"/", "//", "/a", "/a/", "/a/b", "/a//b", "/./a", "/a/..", "/%2e", "/%2F", "/%00", "/%ff", "/a%20b", "/%C3%A4", "/a%5c", "/%", "a", "", "/a;b?c#d", "/%252F", "/…",
	} {
		f.Add(one)
	}
	f.Fuzz(func(t *testing.T, said string) {
		segments, open, err := segmentsOf(said)
		if err != nil {
			return
		}
		escaped := make([]string, len(segments))
		for i, one := range segments {
			assert.True(t, utf8.ValidString(one))
			assert.NotContains(t, []string{"", ".", ".."}, one)
			assert.False(t, strings.ContainsAny(one, "/\\\x00\r\n"))
			escaped[i] = url.PathEscape(one)
		}
		decoded := "/" + strings.Join(segments, "/")
		assert.Equal(t, decoded, path.Clean(decoded), "there is nothing to clean")
		again := "/" + strings.Join(escaped, "/")
		if open {
			again += "/"
		}
		twice, openTwice, err := segmentsOf(again)
		require.NoError(t, err)
		assert.Equal(t, segments, twice)
		assert.Equal(t, open, openTwice)
	})
}

func TestGateway_ForgedCursorStaysBelowPrefix(t *testing.T) {
	t.Parallel()
	g := start(t)
	require.Equal(t, 200, g.do("PUT", kvPath+"users/1", `{"value": "1"}`).status)
	require.Equal(t, 200, g.do("PUT", kvPath+"users2/secret", `{"value": "2"}`).status)
	good := cursor{Prefix: "users/", After: []byte("users/0"), Revision: 1, Total: 1}
	for name, edit := range map[string]func(c *cursor){
		"another prefix":         func(c *cursor) { c.Prefix = "users2/" },
		"a key outside":          func(c *cursor) { c.After = []byte("users2/") },
		"a key before":           func(c *cursor) { c.After = []byte("a") },
		"no key":                 func(c *cursor) { c.After = nil },
		"no revision":            func(c *cursor) { c.Revision = 0 },
		"a negative revision":    func(c *cursor) { c.Revision = -1 },
		"a revision yet to come": func(c *cursor) { c.Revision = 1 << 62 },
		"a negative total":       func(c *cursor) { c.Total = -1 },
	} {
		c := good
		edit(&c)
		assert.Equal(t, 400, g.do("GET", kvPath+"prefix/users?metadata=true&cursor="+c.String(), "").status, name)
	}
	now, _ := g.do("GET", kvPath+"prefix/users?metadata=true", "").field(t, "revision").(float64)
	far := cursor{Prefix: "users/", After: []byte("users/\U0010ffff"), Revision: int64(now), Total: 1}
	assert.Empty(t, g.do("GET", kvPath+"prefix/users?metadata=true&cursor="+far.String(), "").field(t, "entries"))
}
