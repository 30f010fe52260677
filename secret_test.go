package etcdkit_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
)

// planted is the secret that must not appear in any output, not even in hexadecimal.
const planted = "pl4nted-s3cret"

// assertHides fails if a text contains the planted secret.
func assertHides(t *testing.T, text string) {
	t.Helper()
	for _, form := range []string{planted, fmt.Sprintf("%x", planted), fmt.Sprintf("%X", planted), fmt.Sprintf("% x", planted), fmt.Sprintf("%d", []byte(planted))} {
		assert.NotContains(t, text, form)
	}
}

func TestSecret_IsHiddenFromFmt(t *testing.T) {
	t.Parallel()
	type holder struct {
		S etcdkit.Secret
		P *etcdkit.Secret
		M map[string]etcdkit.Secret
		L []etcdkit.Secret
		E any

		hidden  etcdkit.Secret // fmt calls no method of an unexported field
		config  etcdkit.Config
		pointer *etcdkit.Config
		keys    map[etcdkit.Secret]etcdkit.Secret
	}
	s := etcdkit.NewSecret(planted)
	cfg := etcdkit.Config{Password: s, Token: s}
	values := []any{s, &s, []any{s}, map[etcdkit.Secret]int{s: 1}, holder{
		S: s, P: &s, M: map[string]etcdkit.Secret{"k": s}, L: []etcdkit.Secret{s}, E: s,
		hidden: s, config: cfg, pointer: &cfg, keys: map[etcdkit.Secret]etcdkit.Secret{s: s},
	}}
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%#x", "%d", "%U", "%10.3s", "%T"} {
			t.Run(fmt.Sprintf("%T %s", v, verb), func(t *testing.T) {
				t.Parallel()
				assertHides(t, fmt.Sprintf(verb, v))
			})
		}
	}
	var shown, absent any = s, etcdkit.NewSecret("")
	assert.Equal(t, "[redacted]", fmt.Sprint(shown))
	assert.Equal(t, `"[redacted]"`, fmt.Sprintf("%#v", s))
	assert.Empty(t, fmt.Sprint(absent), "an empty secret prints nothing")
}

func TestSecret_IsHiddenFromEncoding(t *testing.T) {
	t.Parallel()
	type holder struct {
		S      etcdkit.Secret
		hidden etcdkit.Config
	}
	secret := etcdkit.NewSecret(planted)
	v := holder{secret, etcdkit.Config{Password: secret}}
	asJSON, err := json.Marshal(v)
	require.NoError(t, err)
	assert.JSONEq(t, `{"S":"[redacted]"}`, string(asJSON))
	asXML, err := xml.Marshal(v)
	require.NoError(t, err)
	assertHides(t, string(asXML))
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("said", "secret", v.S, "group", slog.GroupValue(slog.Any("inner", v.S)), "struct", v)
	}
	assertHides(t, log.String())
	var asGob bytes.Buffer
	require.Error(t, gob.NewEncoder(&asGob).Encode(etcdkit.Config{Username: "u", Password: secret}))
	assertHides(t, asGob.String())
}

func TestSecret_IsComparable(t *testing.T) {
	t.Parallel()
	one, other := etcdkit.NewSecret(planted), etcdkit.NewSecret(strings.Clone(planted))
	assert.True(t, one == other)
	assert.False(t, one == etcdkit.NewSecret("x"))
	assert.Equal(t, planted, one.Reveal())
	assert.False(t, one.IsZero())
	for _, empty := range []etcdkit.Secret{{}, etcdkit.NewSecret("")} {
		assert.True(t, empty.IsZero())
		assert.Empty(t, empty.Reveal())
		assert.True(t, empty == etcdkit.Secret{})
	}
}

func TestSecret_UnmarshalsOnlyStrings(t *testing.T) {
	t.Parallel()
	var s etcdkit.Secret
	require.NoError(t, json.Unmarshal([]byte(`"`+planted+`"`), &s))
	assert.Equal(t, planted, s.Reveal())
	err := json.Unmarshal([]byte(`["`+planted+`"]`), &s)
	require.ErrorContains(t, err, "a secret is a string")
	assertHides(t, err.Error())
	assert.ErrorContains(t, json.Unmarshal([]byte(`"[redacted]"`), &s), "cannot be read back")
}
