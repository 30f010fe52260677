package codec_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/etcdtest/testmain"
	"github.com/etcdkit/etcdkit/kv"
	"github.com/etcdkit/etcdkit/kv/codec"
)

func TestMain(m *testing.M) { testmain.Run(m) }

func key(id string, b byte) codec.Key {
	return codec.Key{ID: id, Secret: bytes.Repeat([]byte{b}, 32)}
}

func ring(tb testing.TB, first codec.Key, others ...codec.Key) codec.KeyRing {
	tb.Helper()
	r, err := codec.NewKeyRing(first, others...)
	require.NoError(tb, err)
	return r
}

func TestWith_AppliesLayersInOrder(t *testing.T) {
	t.Parallel()
	r := ring(t, key("1", 1))
	c := codec.With(kv.String(), codec.Gzip(10), codec.AESGCM(r))
	text := strings.Repeat("text ", 1000)
	b, err := c.Encode("k", text)
	require.NoError(t, err)
	assert.Less(t, len(b), 200, "compressed before it was encrypted")
	assert.NotContains(t, string(b), "text")
	got, err := c.Decode("k", b)
	require.NoError(t, err)
	assert.Equal(t, text, got)
	got, err = codec.With(codec.With(kv.String(), codec.Gzip(10)), codec.AESGCM(r)).Decode("k", b)
	require.NoError(t, err, "nested is the same")
	assert.Equal(t, text, got)
	_, err = codec.With(kv.String(), codec.AESGCM(r)).Decode("k", b[:10])
	require.ErrorIs(t, err, codec.ErrFormat)
}

func TestWith_RejectsNil(t *testing.T) {
	t.Parallel()
	for _, c := range []kv.Codec[string]{
		codec.With[string](nil), codec.With(kv.String(), nil), codec.With(kv.String(), codec.AESGCM(codec.KeyRing{})), codec.With(kv.String(), codec.Gzip(-1)),
	} {
		_, err := c.Encode("k", "v")
		require.ErrorIs(t, err, kv.ErrInvalid)
	}
}

func TestGzip_RoundTrip(t *testing.T) {
	t.Parallel()
	l := codec.Gzip(4)
	for _, plain := range []string{"", "abc", "abcd", "incompressible", strings.Repeat("a", 1000), "\x00gz\x01", "\x00gz\x01" + strings.Repeat("b", 500)} {
		b, err := l.Wrap("k", []byte(plain))
		require.NoError(t, err)
		got, err := l.Unwrap("k", b)
		require.NoError(t, err)
		assert.Equal(t, plain, string(got))
		if len(plain) < 100 && !strings.HasPrefix(plain, "\x00gz") {
			assert.Equal(t, plain, string(b), "short values stay as they are")
		}
	}
	whole, err := l.Wrap("k", bytes.Repeat([]byte("text "), 100))
	require.NoError(t, err)
	for n := len("\x00gz\x01"); n < len(whole); n++ {
		_, err := l.Unwrap("k", whole[:n])
		require.ErrorIs(t, err, codec.ErrFormat, "the first %d bytes", n)
	}
	_, err = l.Unwrap("k", append(bytes.Clone(whole), 'x'))
	require.ErrorIs(t, err, codec.ErrFormat)
	bomb, err := codec.Gzip(0).Wrap("k", make([]byte, 64<<20))
	require.NoError(t, err)
	_, err = codec.Gzip(0).Unwrap("k", bomb)
	require.NoError(t, err)
	_, err = codec.Gzip(0).Wrap("k", make([]byte, 64<<20+1))
	require.ErrorIs(t, err, kv.ErrTooLarge)
}

func TestAESGCM_NeverReturnsWrongValue(t *testing.T) {
	t.Parallel()
	l := codec.AESGCM(ring(t, key("one", 1)))
	plaintext := codec.AESGCM(ring(t, key("one", 1)), codec.WithPlaintextReads())
	sealed, err := l.Wrap("users/42", []byte("secret"))
	require.NoError(t, err)
	again, err := l.Wrap("users/42", []byte("secret"))
	require.NoError(t, err)
	assert.NotEqual(t, sealed, again, "nonces differ")
	got, err := l.Unwrap("users/42", sealed)
	require.NoError(t, err)
	assert.Equal(t, "secret", string(got))

	_, err = l.Unwrap("users/43", sealed)
	require.ErrorIs(t, err, codec.ErrAuthentication, "moved")
	_, err = codec.AESGCM(ring(t, key("one", 2))).Unwrap("users/42", sealed)
	require.ErrorIs(t, err, codec.ErrAuthentication, "another secret")
	_, err = codec.AESGCM(ring(t, key("two", 1))).Unwrap("users/42", sealed)
	require.ErrorIs(t, err, codec.ErrUnknownKey)
	require.ErrorContains(t, err, `"one"`)
	for n := range sealed {
		for _, l := range []codec.Layer{l, plaintext} {
			if n > 0 { // nothing is a plain value
				_, err := l.Unwrap("users/42", sealed[:n])
				require.Error(t, err, "the first %d bytes", n)
			}
		}
		changed := bytes.Clone(sealed)
		changed[n] ^= 1
		_, err := l.Unwrap("users/42", changed)
		require.Error(t, err, "byte %d was changed", n)
	}
	_, err = l.Unwrap("users/42", nil)
	require.ErrorIs(t, err, codec.ErrFormat)
	_, err = l.Unwrap("users/42", []byte(`"plain"`))
	require.ErrorIs(t, err, codec.ErrFormat)
	got, err = plaintext.Unwrap("users/42", []byte(`"plain"`))
	require.NoError(t, err)
	assert.Equal(t, `"plain"`, string(got))
}

func TestAESGCM_RotatesKeys(t *testing.T) {
	t.Parallel()
	before := codec.AESGCM(ring(t, key("old", 1)))
	both := codec.AESGCM(ring(t, key("new", 2), key("old", 1)))
	after := codec.AESGCM(ring(t, key("new", 2)))
	sealed, err := before.Wrap("k", []byte("v"))
	require.NoError(t, err)
	got, err := both.Unwrap("k", sealed)
	require.NoError(t, err)
	assert.Equal(t, "v", string(got))
	_, err = after.Unwrap("k", sealed)
	require.ErrorIs(t, err, codec.ErrUnknownKey)
	sealed, err = both.Wrap("k", []byte("v"))
	require.NoError(t, err)
	_, err = after.Unwrap("k", sealed)
	require.NoError(t, err, "the first key is for writes")
}

func TestNewKeyRing_RejectsInvalidKeys(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][]codec.Key{
		"no ID":          {key("", 1)},
		"a long ID":      {key(strings.Repeat("x", 65), 1)},
		"an ID twice":    {key("1", 1), key("1", 2)},
		"a short secret": {{ID: "1", Secret: make([]byte, 15)}},
		"no secret":      {{ID: "1"}},
	} {
		_, err := codec.NewKeyRing(keys[0], keys[1:]...)
		require.ErrorIs(t, err, kv.ErrInvalid, name)
	}
	_, err := codec.NewKeyRing(codec.Key{ID: "a"}, codec.Key{ID: "b"})
	require.ErrorContains(t, err, `"a"`)
	require.ErrorContains(t, err, `"b"`, "all complaints")
}

func TestKeys_AreNotPrinted(t *testing.T) {
	t.Parallel()
	k := codec.Key{ID: "id", Secret: []byte("0123456789abcdef")}
	r := ring(t, k)
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", k, "ring", r)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", k, "ring", r)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb, k, r, struct{ K codec.Key }{k})
	}
	assert.Contains(t, out.String(), "id")
	for _, secret := range []string{"0123456789", "30313233", "48 49 50", "MDEyMzQ1"} {
		assert.NotContains(t, out.String(), secret)
	}
}

func FuzzGzip(f *testing.F) {
	f.Add([]byte("\x00gz\x01"), 3)
	f.Add(bytes.Repeat([]byte("text "), 100), 10)
	f.Fuzz(func(t *testing.T, b []byte, above int) {
		l := codec.Gzip(max(above, 0))
		wrapped, err := l.Wrap("k", b)
		require.NoError(t, err)
		got, err := l.Unwrap("k", wrapped)
		require.NoError(t, err)
		require.Equal(t, string(b), string(got))
		_, _ = l.Unwrap("k", b) // whatever it is, it does not panic
	})
}

func FuzzAESGCM(f *testing.F) {
	f.Add("k", []byte("value"), 3, byte(1))
	f.Add("", []byte("\x00ag\x01\x01x"), 0, byte(0))
	l := codec.AESGCM(ring(f, key("id", 1)))
	lenient := codec.AESGCM(ring(f, key("id", 1)), codec.WithPlaintextReads())
	f.Fuzz(func(t *testing.T, key string, b []byte, at int, flip byte) {
		sealed, err := l.Wrap(key, b)
		require.NoError(t, err)
		got, err := l.Unwrap(key, sealed)
		require.NoError(t, err)
		require.Equal(t, string(b), string(got))
		_, err = l.Unwrap(key+"x", sealed)
		require.ErrorIs(t, err, codec.ErrAuthentication)
		if at = max(at, 0) % len(sealed); flip != 0 {
			sealed[at] ^= flip
			_, err = l.Unwrap(key, sealed)
			require.Error(t, err)
		}
		_, err = l.Unwrap(key, b)
		require.Error(t, err, "what the layer has not made")
		if got, err := lenient.Unwrap(key, b); err == nil {
			require.Equal(t, string(b), string(got))
		}
	})
}
