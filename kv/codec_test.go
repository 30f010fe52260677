package kv_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest"
	"github.com/etcdkit/etcdkit/kv"
)

type user struct {
	Name   string            `json:"name"`
	Visits int               `json:"visits,omitempty"`
	Tags   map[string]string `json:"tags,omitempty"`
}

func TestJSON_MatchesEncodingJSON(t *testing.T) {
	t.Parallel()
	c := kv.JSON[user]()
	b, err := c.Encode("k", user{Name: "Ada"})
	require.NoError(t, err)
	assert.Equal(t, `{"name":"Ada"}`, string(b))
	u, err := c.Decode("k", []byte(`{"name":"Ada","visits":3,"later":"fields are ignored"}`))
	require.NoError(t, err)
	assert.Equal(t, user{Name: "Ada", Visits: 3}, u)
	for _, bad := range []string{"", "{", `{"name":"Ada"} {}`, `{"visits":"3"}`, "\xff"} {
		u, err := c.Decode("k", []byte(bad))
		require.Error(t, err, bad)
		_ = u
	}
	_, err = kv.JSON[float64]().Encode("k", math.NaN())
	require.Error(t, err)
}

func TestBytes_DecodeReturnsCopy(t *testing.T) {
	t.Parallel()
	stored := []byte("stored")
	v, err := kv.Bytes().Decode("k", stored)
	require.NoError(t, err)
	v[0] = 'S'
	assert.Equal(t, "stored", string(stored))
	_ = append(v, "more"...)
	assert.Equal(t, "stored", string(stored))
}

func FuzzBytes(f *testing.F) {
	f.Add([]byte("value"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		encoded, err := kv.Bytes().Encode("k", b)
		require.NoError(t, err)
		back, err := kv.Bytes().Decode("k", encoded)
		require.NoError(t, err)
		assert.Equal(t, string(b), string(back))
	})
}

func FuzzString(f *testing.F) {
	f.Add("text")
	f.Add("\xff\x00")
	f.Fuzz(func(t *testing.T, s string) {
		encoded, err := kv.String().Encode("k", s)
		require.NoError(t, err)
		back, err := kv.String().Decode("k", encoded)
		require.NoError(t, err)
		assert.Equal(t, s, back)
	})
}

// Whatever decodes is the same when it was written again.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"name":"Ada","tags":{"a":"b"}}`))
	f.Add([]byte(`{"name":"\ud800"}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"name":"Ada"}x`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := kv.JSON[user]()
		v, err := c.Decode("k", b)
		if err != nil {
			return
		}
		again, err := c.Encode("k", v)
		require.NoError(t, err)
		assert.True(t, json.Valid(again))
		back, err := c.Decode("k", again)
		require.NoError(t, err)
		if len(v.Tags) == 0 {
			v.Tags = nil // an empty map is left out
		}
		assert.Equal(t, v, back)
	})
}

// A policy from a file is what was written, or an error.
func FuzzRetryPolicy(f *testing.F) {
	f.Add([]byte(`{"maxAttempts":3,"baseDelay":"100ms","maxDelay":"2s"}`))
	f.Add([]byte(`{"baseDelay":"-1h"}`))
	f.Add([]byte(`{} {}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p kv.RetryPolicy
		if err := p.UnmarshalJSON(b); err != nil {
			require.ErrorIs(t, err, kv.ErrInvalid)
			return
		}
		again, err := p.MarshalJSON()
		require.NoError(t, err)
		var back kv.RetryPolicy
		require.NoError(t, back.UnmarshalJSON(again))
		assert.Equal(t, p, back)
	})
}

func TestCodec_SeesKeyBelowNamespaceOfStore(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	typed := kv.NewTyped(b.Store, "deep/dir", etcdtest.BoundCodec{})
	_, err := typed.Put(t.Context(), "k", "put")
	require.NoError(t, err)
	assert.Equal(t, "deep/dir/k=put", b.value(t, "deep/dir/k"))
	e, err := typed.Update(t.Context(), "k", func(v *string) error { *v += ", updated"; return nil })
	require.NoError(t, err)
	assert.Equal(t, "put, updated", e.Value)
	assert.Equal(t, "deep/dir/k=put, updated", b.value(t, "deep/dir/k"))
	whole, err := kv.NewTyped(b.Store, "", etcdtest.BoundCodec{}).Get(t.Context(), "deep/dir/k")
	require.NoError(t, err, "the same key of another handle")
	assert.Equal(t, "put, updated", whole.Value)
	for e, err := range typed.List(t.Context()) {
		require.NoError(t, err)
		assert.Equal(t, "put, updated", e.Value)
	}
	page, err := typed.Page(t.Context(), 10, "")
	require.NoError(t, err)
	assert.Len(t, page.Entries, 1)

	b.put(t, "deep/dir/moved", b.value(t, "deep/dir/k"))
	_, err = typed.Get(t.Context(), "moved")
	require.ErrorIs(t, err, kv.ErrDecode)
	nested := kv.NewTyped(b.Namespace("deep"), "dir", etcdtest.BoundCodec{})
	_, err = nested.Get(t.Context(), "k")
	require.ErrorIs(t, err, kv.ErrDecode, "a store with a namespace of its own has keys of its own")
}
