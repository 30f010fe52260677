package etcdkit_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit"
)

// planted is the secret that must not turn up anywhere. Its hexadecimal forms must not either.
const planted = "pl4nted-s3cret"

// assertHides fails when a text gives the planted secret away.
func assertHides(t *testing.T, text string) {
	t.Helper()
	for _, form := range []string{planted, fmt.Sprintf("%x", planted), fmt.Sprintf("%X", planted), fmt.Sprintf("% x", planted), fmt.Sprintf("%d", []byte(planted))} {
		assert.NotContains(t, text, form)
	}
}

func TestNoPrintedFormRevealsASecret(t *testing.T) {
	t.Parallel()
	type holder struct {
		S etcdkit.Secret
		P *etcdkit.Secret
		M map[string]etcdkit.Secret
		L []etcdkit.Secret
		E any
	}
	s := etcdkit.Secret(planted)
	values := []any{s, &s, holder{S: s, P: &s, M: map[string]etcdkit.Secret{"k": s}, L: []etcdkit.Secret{s}, E: s}, []any{s}}
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%#x", "%d", "%U", "%10.3s", "%T"} {
			t.Run(fmt.Sprintf("%T %s", v, verb), func(t *testing.T) {
				t.Parallel()
				assertHides(t, fmt.Sprintf(verb, v))
			})
		}
	}
	var shown, absent any = s, etcdkit.Secret("")
	assert.Equal(t, "[redacted]", fmt.Sprint(shown))
	assert.Equal(t, `"[redacted]"`, fmt.Sprintf("%#v", s))
	assert.Empty(t, fmt.Sprint(absent), "an absent secret is no secret")
}

func TestNoMarshalledFormRevealsASecret(t *testing.T) {
	t.Parallel()
	type holder struct{ S etcdkit.Secret }
	v := holder{planted}
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
}

func TestASecretIsReadFromAStringOnly(t *testing.T) {
	t.Parallel()
	var s etcdkit.Secret
	require.NoError(t, json.Unmarshal([]byte(`"`+planted+`"`), &s))
	assert.Equal(t, planted, string(s))
	err := json.Unmarshal([]byte(`["`+planted+`"]`), &s)
	require.ErrorContains(t, err, "a secret is a string")
	assertHides(t, err.Error())
	assert.ErrorContains(t, json.Unmarshal([]byte(`"[redacted]"`), &s), "cannot be read back")
}
