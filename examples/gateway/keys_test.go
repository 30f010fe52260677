package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/examples/settings"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

const kvPath = "/api/etcd/kv/"

func TestGateway_WritesReadsAndDeletesKey(t *testing.T) {
	t.Parallel()
	g := start(t)
	assert.Equal(t, 404, g.do("GET", kvPath+"users/42", "").status)
	put := g.do("PUT", kvPath+"users/42", `{"value": "Ada"}`)
	require.Equal(t, 200, put.status)
	rev, ok := put.field(t, "revision").(float64)
	require.True(t, ok)

	got := g.do("GET", kvPath+"users/42", "")
	require.Equal(t, 200, got.status)
	assert.JSONEq(t, `{"success": true, "error": null, "data": "Ada"}`, string(got.body))
	assert.Equal(t, fmt.Sprintf(`"%.0f"`, rev), got.header.Get("ETag"))
	assert.Equal(t, fmt.Sprintf("%.0f", rev), got.header.Get("Etcd-Revision"))
	assert.Equal(t, put.header.Get("ETag"), got.header.Get("ETag"))
	assert.Equal(t, put.header.Get("Etcd-Revision"), got.header.Get("Etcd-Revision"))
	got = g.do("GET", kvPath+"users/42?metadata=true", "")
	assert.Equal(t, put.header.Get("ETag"), got.header.Get("ETag"))
	assert.JSONEq(t, fmt.Sprintf(`{"success": true, "error": null, "data": {"key": "users/42", "value": "Ada",
		"createRevision": %[1]v, "modRevision": %[1]v, "version": 1}}`, rev), string(got.body))

	head := g.do("HEAD", kvPath+"users/42", "")
	assert.Equal(t, 200, head.status)
	assert.Empty(t, head.body)

	deleted := g.do("DELETE", kvPath+"users/42", "")
	assert.Equal(t, 200, deleted.status)
	assert.JSONEq(t, `{"success": true, "data": {"deleted": 1}, "error": null}`, string(deleted.body))
	at, err := strconv.ParseFloat(deleted.header.Get("Etcd-Revision"), 64)
	require.NoError(t, err)
	assert.Greater(t, at, rev)
	again := g.do("DELETE", kvPath+"users/42", "")
	assert.Equal(t, 200, again.status)
	assert.JSONEq(t, `{"success": true, "data": {"deleted": 0}, "error": null}`, string(again.body))
	assert.Empty(t, again.header.Get("Etcd-Revision"))
	absent := g.do("GET", kvPath+"users/42", "")
	assert.Equal(t, 404, absent.status)
	assert.JSONEq(t, `{"success": false, "data": null, "error": "there is no such key", "code": "not_found"}`,
		string(absent.body))
}

func TestGateway_KeyExpires(t *testing.T) {
	t.Parallel()
	g := start(t)
	require.Equal(t, 200, g.do("PUT", kvPath+"session", `{"value": "x", "ttlSeconds": 60}`).status)
	lease := g.do("GET", kvPath+"session?metadata=true", "").field(t, "lease")
	require.NotEmpty(t, lease)
	var id clientv3.LeaseID
	_, err := fmt.Sscanf(lease.(string), "%x", &id)
	require.NoError(t, err)
	left, err := etcdtest.Client(t).TimeToLive(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, int64(60), left.GrantedTTL)

	_, err = etcdtest.Client(t).Revoke(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, 404, g.do("GET", kvPath+"session", "").status)
	for _, ttl := range []string{"0", "-1", "9300000000", "9223372036854775807", "-12345678901", "-9223372036854775808"} {
		r := g.do("PUT", kvPath+"session", `{"value": "x", "ttlSeconds": `+ttl+`}`)
		assert.Contains(t, []int{400, 413}, r.status, ttl)
	}
	assert.Equal(t, 404, g.do("GET", kvPath+"session", "").status)
}

func TestGateway_ConditionalWrites(t *testing.T) {
	t.Parallel()
	g := start(t)
	created := g.do("PUT", kvPath+"k", `{"value": "1"}`, "If-None-Match", "*")
	require.Equal(t, 201, created.status)
	assert.Equal(t, 412, g.do("PUT", kvPath+"k", `{"value": "2"}`, "If-None-Match", "*").status)

	first := created.header.Get("ETag")
	second := g.do("PUT", kvPath+"k", `{"value": "2"}`, "If-Match", first)
	require.Equal(t, 200, second.status)
	assert.Equal(t, 412, g.do("PUT", kvPath+"k", `{"value": "3"}`, "If-Match", first).status)
	assert.Equal(t, 412, g.do("DELETE", kvPath+"k", "", "If-Match", first).status)
	assert.Equal(t, 412, g.do("PUT", kvPath+"absent", `{"value": "3"}`, "If-Match", first).status)
	assert.Equal(t, 412, g.do("DELETE", kvPath+"absent", "", "If-Match", first).status)
	assert.Equal(t, "2", g.do("GET", kvPath+"k", "").text(t))
	assert.Equal(t, 200, g.do("DELETE", kvPath+"k", "", "If-Match", second.header.Get("ETag")).status)

	for _, tag := range []string{"*", "0", "-1", "x", `W/"7"`, `"7", "8"`} {
		assert.Equal(t, 400, g.do("PUT", kvPath+"k", `{"value": "3"}`, "If-Match", tag).status, tag)
		assert.Equal(t, 400, g.do("DELETE", kvPath+"k", "", "If-Match", tag).status, tag)
	}
	for _, tag := range []string{"", " ", `"7`, `7"`, `""7""`, "+7", "07", `""`} {
		assert.Equal(t, 400, g.do("PUT", kvPath+"k", `{"value": "3"}`, "If-Match", tag).status, tag)
		assert.Equal(t, 400, g.do("DELETE", kvPath+"k", "", "If-Match", tag).status, tag)
	}
	assert.Equal(t, 400, g.do("PUT", kvPath+"k", `{"value": "3"}`, "If-None-Match", "").status)
	assert.Equal(t, 400, g.do("PUT", kvPath+"k", `{"value": "3"}`, "If-None-Match", "*", "If-Match", "").status)
	for _, header := range []string{"If-Match: \r\nIf-Match: \"7\"", "If-None-Match: \r\nIf-None-Match: *", "If-None-Match: *\r\nIf-None-Match: *"} {
		assert.Equal(t, 400, g.raw("PUT "+kvPath+"k HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"+header+
			"\r\nContent-Length: 14\r\n\r\n{\"value\": \"3\"}").status, header)
	}
	assert.Equal(t, 400, g.do("PUT", kvPath+"k", `{"value": "3"}`, "If-None-Match", `"7"`).status)
	assert.Equal(t, 400, g.do("PUT", kvPath+"k", `{"value": "3"}`, "If-None-Match", "*", "If-Match", first).status)
}

func TestGateway_RefusesUnsupportedConditions(t *testing.T) {
	t.Parallel()
	g := start(t)
	require.Equal(t, 200, g.do("PUT", kvPath+"k", `{"value": "1"}`).status)
	for _, one := range []struct{ method, target, body, header, value string }{
		{"DELETE", kvPath + "k", "", "If-None-Match", "*"},
		{"POST", kvPath + "cas/k", `{"expectedValue": "1", "newValue": "2"}`, "If-Match", `"7"`},
		{"POST", kvPath + "cas/k", `{"expectedValue": "1", "newValue": "2"}`, "If-None-Match", "*"},
		{"POST", orders + "/a", instanceOK, "If-None-Match", "*"},
		{"DELETE", orders + "/a", "", "If-Match", `"7"`},
	} {
		r := g.do(one.method, one.target, one.body, one.header, one.value)
		assert.Equal(t, 400, r.status, one)
		assert.Equal(t, "bad_condition", r.Code, one)
	}
	got := g.do("GET", kvPath+"k", "", "If-None-Match", `"7"`)
	assert.Equal(t, "1", got.text(t), "a read is answered, whatever it says")
	assert.Len(t, g.everything(), 1)
}

func TestGateway_CompareAndSwapComparesValues(t *testing.T) {
	t.Parallel()
	g := start(t)
	cas := kvPath + "cas/a/b"
	assert.Equal(t, 409, g.do("POST", cas, `{"expectedValue": "1", "newValue": "2"}`).status, "absent")
	require.Equal(t, 200, g.do("PUT", kvPath+"a/b", `{"value": "1"}`).status)
	swapped := g.do("POST", cas, `{"expectedValue": "1", "newValue": "2"}`)
	assert.Equal(t, 200, swapped.status)
	assert.JSONEq(t, `{"success": true, "data": true, "error": null}`, string(swapped.body))
	assert.Equal(t, g.do("GET", kvPath+"a/b", "").header.Get("ETag"), swapped.header.Get("ETag"))
	lost := g.do("POST", cas, `{"expectedValue": "1", "newValue": "3"}`)
	assert.Equal(t, 409, lost.status)
	assert.Equal(t, "false", string(lost.Data))
	assert.Equal(t, "conflict", lost.Code)
	assert.NotEmpty(t, lost.Error)
	assert.Equal(t, 200, g.do("POST", "/api/etcd/kv/cas?key=a%2Fb", `{"expectedValue": "2", "newValue": "4"}`).status)
	assert.Equal(t, "4", g.do("GET", kvPath+"a/b", "").text(t))
	assert.Equal(t, 400, g.do("POST", cas, `{"expectedValue": "1"}`).status)
	assert.Equal(t, 400, g.do("POST", cas, `{"newValue": "1"}`).status)
	assert.Equal(t, 405, g.do("GET", cas, "").status, "what begins with cas is no key")
	assert.Equal(t, 405, g.do("PUT", kvPath+"prefix/x", `{"value": "1"}`).status, "nor is what begins with prefix")
}

func TestGateway_CachedReadSeesOwnWrites(t *testing.T) {
	t.Parallel()
	g := start(t)
	read := func() (any, int) {
		r := g.do("GET", kvPath+"k?cached=true", "")
		assert.True(t, r.status == 404 || r.header.Get("Age") != "")
		if r.status != 200 {
			return nil, r.status
		}
		return r.text(t), r.status
	}
	_, status := read()
	assert.Equal(t, 404, status)
	for i := range 20 {
		want := strconv.Itoa(i)
		if i%2 == 0 {
			require.Equal(t, 200, g.do("PUT", kvPath+"k", `{"value": "`+want+`"}`).status)
		} else {
			require.Equal(t, 200, g.do("POST", kvPath+"cas/k", fmt.Sprintf(`{"expectedValue": "%d", "newValue": "%d"}`, i-1, i)).status)
		}
		got, _ := read()
		assert.Equal(t, want, got)
	}
	before := g.svc.cached.Stats()
	for range 10 {
		read()
	}
	after := g.svc.cached.Stats()
	assert.Equal(t, before.Fills, after.Fills, "all from memory")
	assert.Equal(t, before.Hits+10, after.Hits)
	require.Equal(t, 200, g.do("DELETE", kvPath+"k", "").status)
	_, status = read()
	assert.Equal(t, 404, status)
	assert.Equal(t, 400, g.do("GET", kvPath+"k?cached=yes", "").status)
}

func TestGateway_UsesCacheOfTheSettings(t *testing.T) {
	t.Parallel()
	small := start(t, func(s *settings.Settings) { s.Cache.MaxEntries = 2 })
	for i := range 10 {
		small.do("GET", kvPath+strconv.Itoa(i)+"?cached=true", "")
	}
	assert.Equal(t, 2, small.svc.cached.Stats().Entries)

	without := start(t, func(s *settings.Settings) { s.Watch.Enabled = false })
	require.Equal(t, 200, without.do("PUT", kvPath+"k", `{"value": "1"}`).status)
	uncached := without.do("GET", kvPath+"k?cached=true", "")
	assert.Equal(t, "1", uncached.text(t))
	assert.Empty(t, uncached.header.Get("Age"), "it is not from memory")
	assert.Zero(t, without.svc.client.Watcher().Active())

	off := start(t, func(s *settings.Settings) { s.Cache.Enabled = false })
	require.Equal(t, 200, off.do("PUT", kvPath+"k", `{"value": "1"}`).status)
	assert.Equal(t, "1", off.do("GET", kvPath+"k?cached=true", "").text(t))
	require.Equal(t, 200, off.do("POST", kvPath+"cas/k", `{"expectedValue": "1", "newValue": "2"}`).status)
	assert.Equal(t, "2", off.do("GET", kvPath+"k?cached=true", "").text(t))
	assert.Zero(t, off.svc.client.Watcher().Active())
	off.instances("s")
	assert.Equal(t, 1, off.svc.client.Watcher().Active(), "services are watched all the same")
	assert.Equal(t, 200, without.do("GET", "/api/etcd/services/s/instances", "").status)
	assert.Equal(t, 200, without.do("GET", "/metrics", "").status)
	assert.Zero(t, without.svc.client.Watcher().Active())
}

func TestGateway_ReturnsValuesUnchanged(t *testing.T) {
	t.Parallel()
	g := start(t, func(s *settings.Settings) { s.Gateway.AllowBlank = true })
	for _, value := range []string{"", "x", "<a href=\"x\">&amp;</a>", "line\nline\r\n\t", "\u2028 \u00e4 \U0001F600 \x00", strings.Repeat("v", 1<<20)} {
		body, err := json.Marshal(map[string]string{"value": value})
		require.NoError(t, err)
		require.Equal(t, 200, g.do("PUT", kvPath+"k", string(body)).status)
		assert.Equal(t, value, g.do("GET", kvPath+"k", "").text(t))
	}
	require.Equal(t, 200, g.do("PUT", kvPath+"k", `{"value": "\ud83d\ude00 \\ud83d"}`).status)
	assert.Equal(t, "\U0001F600 \\ud83d", g.do("GET", kvPath+"k", "").text(t))

	require.Equal(t, 200, g.do("PUT", kvPath+"k", `{"value": "//4A", "encoding": "base64"}`).status)
	got := g.do("GET", kvPath+"k", "")
	assert.Equal(t, 406, got.status, "JSON has no text for it")
	assert.Equal(t, "not_text", got.Code)
	got = g.do("GET", kvPath+"k?metadata=true", "")
	assert.Equal(t, "//4A", got.field(t, "value"))
	assert.Equal(t, "base64", got.field(t, "encoding"))
	e, err := g.svc.client.KV().Get(t.Context(), "k")
	require.NoError(t, err)
	assert.Equal(t, []byte{0xff, 0xfe, 0}, e.Value)
	assert.Equal(t, 200, g.do("POST", kvPath+"cas/k", `{"expectedValue": "//4A", "newValue": "AA==", "encoding": "base64"}`).status)
	assert.Equal(t, "\x00", g.do("GET", kvPath+"k", "").text(t))
}

func TestGateway_TakesAnyKeyAsParameter(t *testing.T) {
	t.Parallel()
	g := start(t)
	for _, key := range []string{"a//b", "/a", "a/", "../x", ".", "a/../b", `a\b`, "a%2Fb", "prefix", "prefix/x", "cas", "cas/x", "\n", "a b+c&d=e;f", "ä", strings.Repeat("k", 3000)} {
		target := "/api/etcd/kv?key=" + url.QueryEscape(key)
		require.Equal(t, 200, g.do("PUT", target, `{"value": "of the form"}`).status, key)
		got := g.do("GET", target+"&metadata=true", "")
		require.Equal(t, 200, got.status, key)
		assert.Equal(t, key, got.field(t, "key"))
		e, err := g.svc.client.KV().Get(t.Context(), key)
		require.NoError(t, err)
		assert.Equal(t, key, e.Key)
		assert.Equal(t, 200, g.do("DELETE", target, "").status, key)
	}
	for path, key := range map[string]string{"a%20b": "a b", "a/b/c": "a/b/c", "a%3Fb": "a?b", "%C3%A4": "ä", "a%2525": "a%25", "...": "...", "a;b,c": "a;b,c", "services": "services"} {
		require.Equal(t, 200, g.do("PUT", kvPath+path, `{"value": "of the path"}`).status, path)
		_, err := g.svc.client.KV().Get(t.Context(), key)
		require.NoError(t, err, key)
	}
	assert.Equal(t, 400, g.do("GET", "/api/etcd/kv", "").status)
	assert.Equal(t, 400, g.do("GET", "/api/etcd/kv?key=", "").status)
	assert.Equal(t, 400, g.do("GET", "/api/etcd/kv?key=a%00b", "").status)
	assert.Equal(t, 400, g.do("GET", "/api/etcd/kv?key=%ff", "").status)
	assert.Equal(t, 400, g.do("GET", kvPath+"a?key=b", "").status)
	assert.Equal(t, 413, g.do("GET", "/api/etcd/kv?key="+strings.Repeat("k", 5000), "").status)
}

func TestGateway_RefusesToWriteReservedKeys(t *testing.T) {
	t.Parallel()
	g := start(t)
	for _, key := range []string{"services/a/instances/b", "locks/x/1", "elections/x/1", ".etcdkit/op/1"} {
		for _, target := range []string{kvPath + key, "/api/etcd/kv?key=" + key} {
			assert.Equal(t, 403, g.do("PUT", target, `{"value": "1"}`).status)
			assert.Equal(t, 403, g.do("DELETE", target, "").status)
		}
		assert.Equal(t, 403, g.do("POST", kvPath+"cas/"+key, `{"expectedValue": "", "newValue": ""}`).status)
		assert.Equal(t, 404, g.do("GET", kvPath+key, "").status)
	}
}

func TestGateway_RefusesBlankValues(t *testing.T) {
	t.Parallel()
	strict := start(t)
	lenient := start(t, func(s *settings.Settings) { s.Gateway.AllowBlank = true })
	for _, g := range []*rig{strict, lenient} {
		require.Equal(t, 200, g.do("PUT", kvPath+"k", `{"value": "1"}`).status)
	}
	for _, blank := range []string{"", " ", "\t\n ", "\u0000", "\u001f"} {
		text, err := json.Marshal(blank)
		require.NoError(t, err)
		for _, one := range []struct{ method, target, body string }{
			{"PUT", kvPath + "k", `{"value": %s}`},
			{"POST", kvPath + "cas/k", `{"expectedValue": "1", "newValue": %s}`},
			{"POST", kvPath + "cas/k", `{"expectedValue": %s, "newValue": "1"}`}, // which undoes the line before
		} {
			body := fmt.Sprintf(one.body, text)
			r := strict.do(one.method, one.target, body)
			assert.Equal(t, 400, r.status, body)
			assert.Equal(t, "blank", r.Code, body)
			assert.Contains(t, r.Error, "blank", body)
			if one.method == "PUT" {
				assert.Equal(t, 200, lenient.do(one.method, one.target, body).status, body)
				require.Equal(t, 200, lenient.do("PUT", kvPath+"k", `{"value": "1"}`).status)
			} else {
				assert.Equal(t, 200, lenient.do(one.method, one.target, body).status, body)
			}
		}
	}
	assert.Equal(t, 400, strict.do("PUT", kvPath+"k", `{"value": "", "encoding": "base64"}`).status)
	assert.Equal(t, "1", strict.do("GET", kvPath+"k", "").text(t))
	for _, value := range []string{"\u00a0", "\u2028", "x "} { // which are no blanks to Java's trim either
		text, err := json.Marshal(value)
		require.NoError(t, err)
		assert.Equal(t, 200, strict.do("PUT", kvPath+"k", `{"value": `+string(text)+`}`).status, value)
	}
	assert.Equal(t, 200, strict.do("PUT", kvPath+"k", `{"value": "IA==", "encoding": "base64"}`).status,
		"bytes are no text")
}
