package keyspace_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/keyspace"
)

func TestDir(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, dir, want, text string }{
		{"no dir stays none", "", "", ""},
		{"a slash is added", "app", "app/", ""},
		{"one slash stays", "app/", "app/", ""},
		{"several trailing slashes become one", "app///", "app/", ""},
		{"a leading slash is part of the keys", "/myapp", "/myapp/", ""},
		{"segments stay as they are", "a/../b/.", "a/../b/./", ""},
		{"bytes that are not UTF-8 are legal", "a\xff", "a\xff/", ""},
		{"a lone slash names nothing", "/", "", `did you mean ""`},
		{"many lone slashes name nothing", "///", "", `did you mean ""`},
		{"an empty segment is refused", "a//b", "", `did you mean "a/b/"`},
		{"a doubled leading slash is refused", "//a///b/", "", `did you mean "/a/b/"`},
		{"a NUL byte is refused", "a\x00b", "", "NUL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := keyspace.Dir(c.dir)
			if c.text != "" {
				require.ErrorIs(t, err, errs.Invalid)
				assert.ErrorContains(t, err, c.text)
				assert.Empty(t, got)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.want, got)
		})
	}
}

func TestPrefix(t *testing.T) {
	t.Parallel()
	for _, ok := range []string{"", "/", "app/", "a\xff/"} {
		assert.NoError(t, keyspace.Prefix(ok, false), "%q", ok)
	}
	err := keyspace.Prefix("app", false)
	require.ErrorIs(t, err, errs.Invalid)
	assert.ErrorContains(t, err, `did you mean "app/"`)
	assert.ErrorContains(t, err, "WithPartialPrefix")
	assert.NoError(t, keyspace.Prefix("app", true), "a partial prefix on purpose is legal")
}

func TestName(t *testing.T) {
	t.Parallel()
	for _, ok := range []string{"a", "jobs/nightly", "späti", "..", strings.Repeat("x", 512)} {
		assert.NoError(t, keyspace.Name(ok), "%q", ok)
	}
	for _, c := range []struct{ name, in, text string }{
		{"an empty name", "", "empty"},
		{"a control character", "a\nb", "control"},
		{"a NUL byte", "a\x00", "control"},
		{"a control character beyond ASCII", "a\u0085b", "control"},
		{"bytes that are not UTF-8", "a\xff", "UTF-8"},
		{"a leading slash", "/a", `did you mean "a"`},
		{"a trailing slash", "a/", `did you mean "a"`},
		{"a doubled slash", "a///b", `did you mean "a/b"`},
		{"a lone slash", "/", "nothing but slashes"},
	} {
		err := keyspace.Name(c.in)
		require.ErrorIs(t, err, errs.Invalid, c.name)
		assert.ErrorContains(t, err, c.text, c.name)
	}
	err := keyspace.Name(strings.Repeat("x", 513))
	require.ErrorIs(t, err, errs.TooLarge)
	assert.ErrorContains(t, err, "513")
	assert.ErrorContains(t, err, "512")
}

func TestKey(t *testing.T) {
	t.Parallel()
	for _, ok := range []string{"../x", "a//b", "\x00", "\xff\xfe", "/", strings.Repeat("k", 16)} {
		assert.NoError(t, keyspace.Key(ok, 16), "%q", ok)
	}
	assert.NoError(t, keyspace.Key(strings.Repeat("k", 1<<20), 0), "no limit")

	err := keyspace.Key("", 16)
	require.ErrorIs(t, err, errs.Invalid)
	require.NotErrorIs(t, err, errs.TooLarge)

	err = keyspace.Key(strings.Repeat("k", 17), 16)
	require.ErrorIs(t, err, errs.TooLarge)
	require.ErrorIs(t, err, errs.Invalid, "too large is a case of invalid")
	assert.ErrorContains(t, err, "17 bytes")
	assert.ErrorContains(t, err, "16")
}
