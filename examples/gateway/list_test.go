package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/examples/settings"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

func TestGateway_PagesShowOneRevision(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) { s.Gateway.Limits.PageBytes = 2000 })
	for i := range 25 {
		require.Equal(t, 200, g.do("PUT", kvPath+fmt.Sprintf("users/%02d", i), `{"value": "v"}`).status)
	}
	require.Equal(t, 200, g.do("PUT", kvPath+"users2/x", `{"value": "v"}`).status)
	var keys []string
	var revision any
	cursor, pages := "", 0
	for {
		r := g.do("GET", kvPath+"prefix/users/?metadata=true&limit=10"+cursor, "")
		require.Equal(t, 200, r.status)
		var page listBody
		require.NoError(t, json.Unmarshal(r.Data, &page))
		for _, e := range page.Entries {
			keys = append(keys, e.Key)
		}
		if revision == nil {
			revision = page.Revision
		}
		assert.Equal(t, revision, page.Revision)
		assert.Equal(t, strconv.FormatInt(page.Revision, 10), r.header.Get("Etcd-Revision"))
		assert.Equal(t, int64(25), page.Total)
		g.do("PUT", kvPath+"users/00a", `{"value": "later"}`)
		g.do("PUT", kvPath+"users/99", `{"value": "later"}`)
		pages++
		if page.Cursor == "" {
			break
		}
		cursor = "&cursor=" + page.Cursor
	}
	assert.Equal(t, 3, pages)
	require.Len(t, keys, 25)
	assert.Equal(t, "users/00", keys[0])
	assert.Equal(t, "users/24", keys[24])
	for _, other := range []string{"prefix/users2", "prefix", "prefix/users/00"} {
		assert.Equal(t, 400, g.do("GET", kvPath+other+"?metadata=true&cursor="+strings.TrimPrefix(cursor, "&cursor="), "").status, "a cursor of another prefix")
	}
	for _, query := range []string{
		"limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=", "limit=1&limit=2", "lmit=1", "%zz", "a;b",
	} {
		assert.Equal(t, 400, g.do("GET", kvPath+"prefix/users/?metadata=true&"+query, "").status, query)
	}
	for _, query := range []string{"limit=1", "cursor=x", "metadata=yes", "metadata=false&limit=1"} {
		assert.Equal(t, 400, g.do("GET", kvPath+"prefix/users/?"+query, "").status, query)
	}
}

func TestGateway_PagesOfLargeValuesAreShort(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) { s.Gateway.Limits.PageBytes = 2000 })
	for i := range 5 {
		require.Equal(t, 200, g.do("PUT", kvPath+fmt.Sprintf("big/%d", i), `{"value": "`+strings.Repeat("v", 900+2000*(i/4))+`"}`).status)
	}
	var sizes []int
	for cursor := ""; ; {
		r := g.do("GET", kvPath+"prefix?metadata=true&key=big"+cursor, "")
		var page listBody
		require.NoError(t, json.Unmarshal(r.Data, &page))
		sizes = append(sizes, len(page.Entries))
		if page.Cursor == "" {
			break
		}
		cursor = "&cursor=" + page.Cursor
	}
	assert.Equal(t, []int{2, 2, 1}, sizes, "one that is larger than a page is a page")
}

func TestGateway_ListsDirOrEverything(t *testing.T) {
	t.Parallel()
	g := start(t)
	for _, key := range []string{"a/1", "a/2", "ab/3"} {
		require.Equal(t, 200, g.do("PUT", kvPath+key, `{"value": "v"}`).status)
	}
	const a, all = `{"a/1": "v", "a/2": "v"}`, `{"a/1": "v", "a/2": "v", "ab/3": "v"}`
	for target, want := range map[string]string{
		"prefix/a?": a, "prefix/a/?": a, "prefix?key=a&": a, "prefix?key=a/&": a,
		"prefix?": all, "prefix/?": all, "prefix?key=&": all, "prefix/none?": `{}`,
	} {
		r := g.do("GET", kvPath+strings.TrimRight(target, "?&"), "")
		require.Equal(t, 200, r.status, target)
		assert.JSONEq(t, want, string(r.Data), target)
		assert.NotEmpty(t, r.header.Get("Etcd-Revision"))
		var values map[string]string
		require.NoError(t, json.Unmarshal(r.Data, &values))
		r = g.do("GET", kvPath+target+"metadata=true", "")
		require.Equal(t, 200, r.status, target)
		assert.InDelta(t, len(values), r.field(t, "total"), 0, target)
		assert.Len(t, r.field(t, "entries"), len(values), target)
	}
}

func TestGateway_PagesOfCompactedRevisionAreGone(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	g := start(t, func(s *settings.Settings) { s.Etcd.Endpoints = server.Endpoints() })
	for i := range 3 {
		require.Equal(t, 200, g.do("PUT", kvPath+fmt.Sprint("a/", i), `{"value": "v"}`).status)
	}
	cursor := g.do("GET", kvPath+"prefix/a?metadata=true&limit=1", "").field(t, "cursor").(string)
	require.Equal(t, 200, g.do("PUT", kvPath+"a/3", `{"value": "v"}`).status)
	server.Compact(0)
	r := g.do("GET", kvPath+"prefix/a?metadata=true&limit=1&cursor="+cursor, "")
	assert.Equal(t, 410, r.status)
	assert.Equal(t, "gone", r.Code)
}

// walk is the keys of all pages, and how many pages they were on. It ends when there are more than
// there can be.
func (g *rig) walk(target string) (keys []string, pages int) {
	g.t.Helper()
	const most = 10
	for cursor := ""; pages <= most; {
		r := g.do("GET", kvPath+target+cursor, "")
		require.Equal(g.t, 200, r.status)
		var page listBody
		require.NoError(g.t, json.Unmarshal(r.Data, &page))
		for _, e := range page.Entries {
			keys = append(keys, e.Key+e.KeyEncoding)
		}
		pages++
		if page.Cursor == "" {
			return keys, pages
		}
		cursor = "&cursor=" + page.Cursor
	}
	return keys, pages
}

func TestGateway_ListsKeysThatAreNotUTF8(t *testing.T) {
	t.Parallel()
	g := start(t)
	for _, key := range []string{"a/1", "a/\xfe", "a/\xff", "a/\xff\x00"} {
		_, err := g.svc.client.KV().Put(t.Context(), key, []byte("v"))
		require.NoError(t, err)
	}
	keys, pages := g.walk("prefix/a?metadata=true&limit=1")
	assert.Equal(t, []string{"a/1", "YS/+base64", "YS//base64", "YS//AA==base64"}, keys)
	assert.Equal(t, 4, pages)
}

func TestGateway_MeasuresPagesAsSent(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) { s.Gateway.Limits.PageBytes = 2000 })
	for i, value := range [][]byte{bytes.Repeat([]byte{1}, 300), bytes.Repeat([]byte{'"'}, 900), bytes.Repeat([]byte{0xff}, 1400), []byte(strings.Repeat("\u2028", 300))} {
		_, err := g.svc.client.KV().Put(t.Context(), fmt.Sprint("a/", i), value)
		require.NoError(t, err)
	}
	keys, pages := g.walk("prefix/a?metadata=true&limit=10")
	assert.Len(t, keys, 4)
	assert.Equal(t, 4, pages)
	for _, value := range []string{"", "x", "\x01\n\"\\", "\u2028\u2029ä\U0001F600\x7f", "\xff", "\xff\xfe\x00\x01"} {
		s, _ := text([]byte(value))
		said, err := marshal(s)
		require.NoError(t, err)
		assert.GreaterOrEqual(t, weightOf([]byte(value)), len(said)-len("\"\"\n"), "%q", value)
	}
}

func TestGateway_PagesAreShortWhileManyAreInMemory(t *testing.T) {
	t.Parallel()
	g := start(t)
	for i := range 3 {
		require.Equal(t, 200, g.do("PUT", kvPath+fmt.Sprint("a/", i), `{"value": "v"}`).status)
	}
	others := int64(maxFullPages*g.svc.set.Gateway.Limits.PageBytes + 1)
	g.svc.listed.Add(others)
	keys, pages := g.walk("prefix/a?metadata=true&limit=3")
	assert.Equal(t, []string{"a/0", "a/1", "a/2"}, keys)
	assert.Equal(t, 3, pages)
	r := g.do("GET", kvPath+"prefix/a", "")
	assert.Equal(t, 429, r.status, "a map has no pages: it may be tried again")
	assert.Equal(t, "1", r.header.Get("Retry-After"))
	g.svc.listed.Add(-others)
	assert.Equal(t, 200, g.do("GET", kvPath+"prefix/a", "").status)
	_, pages = g.walk("prefix/a?metadata=true&limit=3")
	assert.Equal(t, 1, pages)
	eventually(t, func() bool { return g.svc.listed.Load() == 0 }, "all is given back")
}

func TestGateway_RefusesMapsThatOneAnswerCannotHold(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) {
		s.Gateway.Limits.PageEntries, s.Gateway.Limits.PageBytes = 3, 2000
	})
	put := func(key, value string) {
		_, err := g.svc.client.KV().Put(t.Context(), key, []byte(value))
		require.NoError(t, err)
	}
	for i := range 3 {
		put(fmt.Sprint("many/", i), "v")
		put(fmt.Sprint("big/", i), strings.Repeat("v", 900))
	}
	assert.Equal(t, 200, g.do("GET", kvPath+"prefix/many", "").status)
	put("many/3", "v")
	put("binary/value", "\xff")
	put("binarykey/\xff", "v")
	for prefix, want := range map[string]int{"many": 413, "big": 413, "binary": 406, "binarykey": 406} {
		r := g.do("GET", kvPath+"prefix/"+prefix, "")
		assert.Equal(t, want, r.status, prefix)
		assert.Contains(t, r.Error, "?metadata=true", prefix)
		assert.Equal(t, 200, g.do("GET", kvPath+"prefix/"+prefix+"?metadata=true", "").status, prefix)
	}
	eventually(t, func() bool { return g.svc.listed.Load() == 0 }, "all is given back")
}
