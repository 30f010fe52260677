package config_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/internal/etcdtest/parttest"
	"github.com/etcdkit/etcdkit/kv"
)

var errNotPositive = errors.New("must be positive")

func positive(n int) error {
	if n <= 0 {
		return errNotPositive
	}
	return nil
}

// bind binds a key; it must succeed.
func bind[T any](tb testing.TB, s *config.Source, key string, o ...config.BindOption[T]) *config.Value[T] {
	tb.Helper()
	v, err := config.Bind(s, key, o...)
	require.NoError(tb, err)
	return v
}

func bindDir[T any](tb testing.TB, s *config.Source, dir string, o ...config.BindOption[T]) *config.Value[T] {
	tb.Helper()
	v, err := config.BindDir(s, dir, o...)
	require.NoError(tb, err)
	return v
}

func TestBind_FollowsKey(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	rate := bind(t, s, "rate", config.WithDefault(10), config.WithValidate(positive))
	assert.Equal(t, 10, rate.Load())
	assert.Empty(t, rate.Provenance())
	var seen parttest.Recorder[int]
	stop := rate.Follow(seen.Add)
	assert.Equal(t, 10, seen.Await(t, 1), "the current value comes first")

	rev := put(t, p, "rate", "20")
	waitForRevision(t, s, rev)
	assert.Equal(t, 20, rate.Load())
	assert.Equal(t, 20, seen.Await(t, 2))
	assert.Equal(t, []config.Provenance{{Key: "rate", Origin: config.Live, Revision: rev}}, rate.Provenance())
	before := s.Stats().Decodes
	rev = put(t, p, "rate", "20")
	waitForRevision(t, s, rev)
	assert.Equal(t, before, s.Stats().Decodes, "what was there already is not decoded again")
	assert.Equal(t, rev, rate.Provenance()[0].Revision)

	_, err := rate.Set(t.Context(), 30)
	require.NoError(t, err)
	assert.Equal(t, 30, rate.Load())
	assert.Equal(t, 30, seen.Await(t, 3))
	_, err = rate.Set(t.Context(), -1)
	require.ErrorIs(t, err, config.ErrValidation)
	require.ErrorIs(t, err, errNotPositive)
	require.EqualError(t, err, `config: set "rate": refused by validation: must be positive`)

	waitForRevision(t, s, del(t, p, "rate"))
	assert.Equal(t, 10, rate.Load(), "a deleted key is at its default")
	require.NoError(t, rate.Err())
	assert.Equal(t, 10, seen.Await(t, 4))
	stop()
	stop()
	put(t, p, "rate", "40")
	require.Eventually(t, func() bool { return rate.Load() == 40 }, parttest.Timeout, time.Millisecond)
	assert.Len(t, seen.All(), 4, "nothing is told after stop")
}

func TestBind_KeepsLastGoodValueAndReportsBadOne(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, value string
		is          error
		text        string
	}{
		{"invalid JSON", `{"text":`, kv.ErrDecode, `bad value at revision N: value cannot be decoded: JSON: it ends too early`},
		{"an empty value", ``, kv.ErrDecode, `bad value at revision N: value cannot be decoded: JSON: it ends too early`},
		{"a wrong type", `{"text":5}`, kv.ErrDecode, `bad value at revision N: value cannot be decoded: JSON: field "text": number where string is expected`},
		{"an unknown field, in strict mode", `{"text":"x","colour":"red"}`, kv.ErrDecode, `bad value at revision N: value cannot be decoded: JSON: unknown field "colour"`},
		{"something behind the value, in strict mode", `{"text":"x"} {}`, kv.ErrDecode, `bad value at revision N: value cannot be decoded: JSON: something follows the value`},
		{"a value that validation refuses", `{"text":"bad"}`, config.ErrValidation, `bad value at revision N: refused by validation: no such text`},
		{"a value that validation panics about", `{"text":"panic"}`, config.ErrValidation, `bad value at revision N: refused by validation: panic: oh`},
		{"a value that is too large", `{"text":"` + strings.Repeat("x", 2000) + `"}`, kv.ErrTooLarge, `bad value at revision N: too large: value is 2011 bytes, the limit is 1000`},
		{"deletion without a default", "-", kv.ErrNotFound, `bad value at revision N: key not found`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := parttest.Shared(t)
			received, handler := recordErrors()
			put(t, p, "banner", `{"text":"good"}`)
			s := open(t, p, handler, config.WithMaxValueBytes(1000))
			v := bind(t, s, "banner", config.WithStrict[banner](), config.WithValidate(func(b banner) error {
				switch b.Text {
				case "bad":
					return errors.New("no such text")
				case "panic":
					panic("oh")
				}
				return nil
			}))
			require.Equal(t, "good", v.Load().Text)
			var rev int64
			if c.value == "-" {
				rev = del(t, p, "banner")
			} else {
				rev = put(t, p, "banner", c.value)
			}
			waitForRevision(t, s, rev)
			assert.Equal(t, "good", v.Load().Text)
			require.ErrorIs(t, v.Err(), c.is)
			assert.Equal(t, c.text, withoutRevision(v.Err()))
			got := received.Await(t, 1)
			assert.Equal(t, "banner", got.key)
			assert.Equal(t, rev, got.rev)
			require.ErrorIs(t, got.err, c.is)
			assert.EqualValues(t, 1, s.Stats().BadValues)
			assert.Equal(t, 1, s.Stats().Bad)

			waitForRevision(t, s, put(t, p, "banner", `{"text":"better"}`))
			assert.Equal(t, "better", v.Load().Text, "the next good value ends it")
			require.NoError(t, v.Err())
			assert.Zero(t, s.Stats().Bad)
			assert.Len(t, received.All(), 1)
		})
	}
}

func TestBind_WhenFirstValueIsBad(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	received, handler := recordErrors()
	put(t, p, "rate", "many")
	s := open(t, p, handler)
	_, err := config.Bind[int](s, "rate")
	var bad *config.BadValueError
	require.ErrorAs(t, err, &bad)
	assert.Equal(t, `config: bind "rate": bad value at revision N: value cannot be decoded: not a whole number that fits int`, withoutRevision(err))
	_, err = config.Bind[int](s, "none")
	require.ErrorIs(t, err, kv.ErrNotFound)

	v := bind(t, s, "rate", config.WithDefault(5))
	assert.Equal(t, 5, v.Load(), "with a default, it is as one that comes later")
	require.ErrorIs(t, v.Err(), kv.ErrDecode)
	assert.Equal(t, "rate", received.Await(t, 1).key)
	waitForRevision(t, s, put(t, p, "rate", "6"))
	assert.Equal(t, 6, v.Load())
	require.NoError(t, v.Err())
}

type mode string

type pools struct {
	Max  int           `config:"max" default:"10"`
	Wait time.Duration `default:"5s"`
}

type common struct {
	Name string `config:"name,required"`
}

type service struct {
	common

	Rate     int             `config:"http/rate"`
	Mode     mode            `default:"fast"`
	DBPools  pools           // a dir of its own
	Banner   banner          `config:"banner,json"`
	Flags    map[string]bool `config:"flags,dir"`
	Note     *string
	Hosts    []string
	internal int    //nolint:unused // not exported: it is left alone
	Skipped  string `config:"-"`
}

func TestBindDir_FillsStruct(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	for key, value := range map[string]string{
		"shop/name": "shop", "shop/http/rate": "7", "shop/db-pools/wait": "1m", "shop/banner": `{"text":"hi"}`,
		"shop/flags/new-ui": "true", "shop/flags/a/b": "false", "shop/hosts": `["a","b"]`, "shop/unknown": "x", "shops/name": "other",
	} {
		put(t, p, key, value)
	}
	s := open(t, p)
	v := bindDir[service](t, s, "shop")
	want := service{
		common: common{"shop"}, Rate: 7, Mode: "fast", DBPools: pools{10, time.Minute}, Banner: banner{Text: "hi"},
		Flags: map[string]bool{"new-ui": true, "a/b": false}, Hosts: []string{"a", "b"},
	}
	assert.Equal(t, want, v.Load())
	assert.Len(t, v.Provenance(), 7, "defaults are not among them")

	before := s.Stats().Decodes
	waitForRevision(t, s, put(t, p, "shop/unknown", "y"))
	assert.Equal(t, before, s.Stats().Decodes, "a key of no field is not looked at")
	note := "mind the gap"
	waitForRevision(t, s, put(t, p, "shop/note", note))
	want.Note = &note
	assert.Equal(t, want, v.Load())
	assert.Equal(t, before+1, s.Stats().Decodes, "one decode for each change")
	waitForRevision(t, s, del(t, p, "shop/note"))
	waitForRevision(t, s, del(t, p, "shop/db-pools/wait"))
	want.Note, want.DBPools.Wait = nil, 5*time.Second
	assert.Equal(t, want, v.Load(), "a deleted key is at its default")

	waitForRevision(t, s, put(t, p, "shop/http/rate", "fast"))
	assert.Equal(t, want, v.Load())
	var bad *config.BadValueError
	require.ErrorAs(t, v.Err(), &bad)
	assert.Equal(t, "shop/http/rate", bad.Key, "the key that is to blame is named")
	waitForRevision(t, s, put(t, p, "shop/hosts", `["c"]`))
	assert.Equal(t, want, v.Load(), "one bad field, and all of it stays as it was")
	waitForRevision(t, s, put(t, p, "shop/http/rate", "8"))
	want.Rate, want.Hosts = 8, []string{"c"}
	assert.Equal(t, want, v.Load())

	waitForRevision(t, s, del(t, p, "shop/name"))
	require.ErrorIs(t, v.Err(), kv.ErrNotFound, "a required key")
	require.ErrorAs(t, v.Err(), &bad)
	assert.Equal(t, "shop/name", bad.Key)
	assert.Equal(t, want, v.Load())
}

func TestValue_SetOfDirIsOneTransaction(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	for key, value := range map[string]string{"name": "old", "note": "x", "flags/a": "true", "flags/b": "true", "beside": "stays"} {
		put(t, p, "shop/"+key, value)
	}
	s := open(t, p)
	v := bindDir(t, s, "shop/", config.WithValidate(func(x service) error { return positive(x.Rate + 1) }))
	var seen parttest.Recorder[service]
	v.Follow(seen.Add)
	seen.Await(t, 1)
	want := service{
		common: common{"new"}, Rate: 3, Mode: "slow", DBPools: pools{1, time.Second}, Banner: banner{"t", []int{1}},
		Flags: map[string]bool{"b": false}, Hosts: []string{"h"},
	}
	rev, err := v.Set(t.Context(), want)
	require.NoError(t, err)
	assert.Equal(t, want, v.Load())
	assert.Equal(t, want, seen.Await(t, 2), "and one change")
	assert.Equal(t, map[string]string{
		"shop/name": "new", "shop/http/rate": "3", "shop/mode": "slow", "shop/db-pools/max": "1", "shop/db-pools/wait": "1s",
		"shop/banner": `{"text":"t","days":[1]}`, "shop/flags/b": "false", "shop/hosts": `["h"]`, "shop/beside": "stays",
	}, contents(s))
	for _, from := range v.Provenance() {
		assert.Equal(t, rev, from.Revision)
	}
	want.Rate = -5
	_, err = v.Set(t.Context(), want)
	require.ErrorIs(t, err, config.ErrValidation)
	_, err = v.Set(t.Context(), service{}, kv.WithOnce())
	require.ErrorIs(t, err, config.ErrInvalid)
}

func TestValue_SetOfAbsentDirToZeroReturnsAtOnce(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	type notes struct {
		One, Two *string
		More     map[string]string `config:"more,dir"`
	}
	v := bindDir[notes](t, s, "notes")
	put(t, p, "elsewhere", "x")
	// The revision of the cluster is ahead of any revision that the source will see.
	_, err := p.KV().Put(t.Context(), "beside", nil)
	require.NoError(t, err)
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	rev, err := v.Set(ctx, notes{})
	require.NoError(t, err)
	assert.Zero(t, rev, "nothing was written")
	require.NoError(t, ctx.Err(), "there is nothing to wait for")
	one := "1"
	rev, err = v.Set(ctx, notes{One: &one})
	require.NoError(t, err)
	assert.Positive(t, rev)
	gone, err := v.Set(ctx, notes{})
	require.NoError(t, err)
	assert.Greater(t, gone, rev)
	assert.Equal(t, notes{}, v.Load())
}

func TestValue_SetRefusesInvalidMapEntries(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	v := bindDir[struct {
		Flags map[string]int `config:"flags,dir"`
	}](t, s, "")
	for _, name := range []string{"", "a//b", "a/", "a\x00", "\xff"} {
		x := v.Load()
		x.Flags = map[string]int{"good": 1, name: 2}
		_, err := v.Set(t.Context(), x)
		require.ErrorIs(t, err, config.ErrInvalid, "%q would be written and never read", name)
		require.ErrorContains(t, err, "field Flags")
	}
	assert.Empty(t, contents(s))
}

func TestBindDir_StrictRefusesUnknownKeys(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "db/max", "3")
	s := open(t, p)
	v := bindDir(t, s, "db", config.WithStrict[pools]())
	waitForRevision(t, s, put(t, p, "db/maximum", "4"))
	assert.Equal(t, 3, v.Load().Max)
	assert.Equal(t, `key "db/maximum": bad value at revision N: value cannot be decoded: no field has this key`, withoutRevision(v.Err()))
	waitForRevision(t, s, del(t, p, "db/maximum"))
	require.NoError(t, v.Err())
}

func TestBindDir_DefaultIsStruct(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	v := bindDir(t, s, "db", config.WithDefault(pools{Max: 1, Wait: time.Hour}))
	assert.Equal(t, pools{1, time.Hour}, v.Load(), "default tags are not looked at")
	waitForRevision(t, s, put(t, p, "db/max", "2"))
	assert.Equal(t, pools{2, time.Hour}, v.Load())
}

// upperText is text in capitals.
type upperText string

// fakeUpperCodec stores text in capitals.
type fakeUpperCodec struct{}

func (fakeUpperCodec) Encode(_ string, v upperText) ([]byte, error) {
	return []byte(strings.ToUpper(string(v))), nil
}

func (fakeUpperCodec) Decode(_ string, b []byte) (upperText, error) {
	switch string(b) {
	case "panic":
		panic("oh")
	case strings.ToUpper(string(b)):
		return upperText(strings.ToLower(string(b))), nil
	}
	return "", fmt.Errorf("%q is not loud", b)
}

// fakeBoundCodec is a codec that writes the key beside the value.
type fakeBoundCodec struct{}

func (fakeBoundCodec) Encode(key, v string) ([]byte, error) { return []byte(key + "=" + v), nil }
func (fakeBoundCodec) Decode(key string, b []byte) (string, error) {
	return strings.TrimPrefix(string(b), key+"="), nil
}

func TestBind_CodecSeesKeyThatStoreHas(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	v := bind(t, s, "text", config.WithCodec(fakeBoundCodec{}), config.WithDefault(""))
	_, err := v.Set(t.Context(), "hello")
	require.NoError(t, err)
	assert.Equal(t, "hello", v.Load())
	e, err := kv.NewTyped(p.KV(), "conf", fakeBoundCodec{}).Get(t.Context(), "text")
	require.NoError(t, err)
	assert.Equal(t, "hello", e.Value)
	raw, err := p.KV().Get(t.Context(), "conf/text")
	require.NoError(t, err)
	assert.Equal(t, "conf/text=hello", string(raw.Value))
}

func TestBind_WithCodec(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	s := open(t, p)
	v := bind(t, s, "text", config.WithCodec(fakeUpperCodec{}), config.WithDefault(upperText("quiet")))
	_, err := v.Set(t.Context(), "hello")
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"text": "HELLO"}, contents(s))
	assert.Equal(t, upperText("hello"), v.Load())
	waitForRevision(t, s, put(t, p, "text", "low"))
	require.ErrorIs(t, v.Err(), kv.ErrDecode)
	assert.NotContains(t, v.Err().Error(), "low")
	waitForRevision(t, s, put(t, p, "text", "panic"))
	require.ErrorIs(t, v.Err(), kv.ErrDecode)
	var panicked *config.PanicError
	require.ErrorAs(t, v.Err(), &panicked)
	assert.Contains(t, string(panicked.Stack), "fakeUpperCodec")

	y := bind(t, s, "yaml", config.WithCodec(config.YAML[banner]()), config.WithDefault(banner{}))
	_, err = y.Set(t.Context(), banner{"x", nil})
	require.NoError(t, err)
	j := bind(t, s, "json", config.WithCodec(config.JSON[string]()), config.WithDefault(""))
	_, err = j.Set(t.Context(), "quoted")
	require.NoError(t, err)
	assert.Equal(t, "x", y.Load().Text)
	assert.Equal(t, "quoted", j.Load())
	assert.Equal(t, map[string]string{"text": "panic", "yaml": "days: null\ntext: x\n", "json": `"quoted"`}, contents(s))
}

func TestBind_ReturnsErrInvalidForProgrammingErrors(t *testing.T) {
	t.Parallel()
	s := open(t, parttest.Shared(t))
	dir := func(f func() error) func() error { return f }
	for _, c := range []struct {
		name, text string
		call       func() error
	}{
		{"no source", "nil source", func() error { _, err := config.Bind[int](nil, "key"); return err }},
		{"no source for a dir", "nil source", func() error { _, err := config.BindDir[pools](nil, "dir"); return err }},
		{"an empty key", "empty", func() error { _, err := config.Bind[int](s, ""); return err }},
		{"a key that is no name", "control", func() error { _, err := config.Bind[int](s, "a\x00"); return err }},
		{"a type that nothing can be decoded into", "cannot be stored", func() error { _, err := config.Bind[func()](s, "key"); return err }},
		{"an interface with methods", "the interface type", func() error { _, err := config.Bind[error](s, "key"); return err }},
		{"a nil codec", "nil codec", func() error { _, err := config.Bind(s, "key", config.WithCodec[int](nil)); return err }},
		{"a nil validation", "nil function", func() error {
			_, err := config.Bind(s, "key", config.WithValidate[int](nil), config.WithDefault(1))
			return err
		}},
		{"a default that validation refuses", "must be positive", func() error {
			_, err := config.Bind(s, "key", config.WithDefault(0), config.WithValidate(positive))
			return err
		}},
		{"strictness of a codec", "WithCodec", func() error {
			_, err := config.Bind(s, "key", config.WithStrict[upperText](), config.WithCodec(fakeUpperCodec{}))
			return err
		}},
		{"a target that is no struct", "not a struct", func() error { _, err := config.BindDir[int](s, "dir"); return err }},
		{"a target that is a pointer", "not a struct", func() error { _, err := config.BindDir[*pools](s, "dir"); return err }},
		{"an invalid dir", "a//b", func() error { _, err := config.BindDir[pools](s, "a//b"); return err }},
		{"a codec for a dir", "with a directory", func() error { _, err := config.BindDir(s, "dir", config.WithCodec(config.JSON[pools]())); return err }},
		{"a struct without fields", "no settable field", dir(func() error { _, err := config.BindDir[struct{ a int }](s, "dir"); return err })},
		{"two fields with one key", `the same key "a"`, func() error {
			_, err := config.BindDir[struct {
				A, B int `config:"a"`
			}](s, "dir")
			return err
		}},
		{"a field below another's map", "lies below", func() error {
			_, err := config.BindDir[struct {
				A map[string]int `config:"a,dir"`
				B int            `config:"a/b"`
			}](s, "dir")
			return err
		}},
		{"a default that does not decode", "not a whole number", func() error {
			_, err := config.BindDir[struct {
				A int `default:"x"`
			}](s, "dir")
			return err
		}},
		{"a default of a required field", "needs no default", func() error {
			_, err := config.BindDir[struct {
				A int `config:",required" default:"1"`
			}](s, "dir")
			return err
		}},
		{"a required struct", "cannot be required", func() error {
			_, err := config.BindDir[struct {
				A pools `config:",required"`
			}](s, "dir")
			return err
		}},
		{"a required map", "cannot be required", func() error {
			_, err := config.BindDir[struct {
				A map[string]int `config:",dir,required"`
			}](s, "dir")
			return err
		}},
		{"a dir that is no map", "only a map", func() error {
			_, err := config.BindDir[struct {
				A []int `config:",dir"`
			}](s, "dir")
			return err
		}},
		{"a word in the tag that there is not", "omitempty", func() error {
			_, err := config.BindDir[struct {
				A int `config:"a,omitempty"`
			}](s, "dir")
			return err
		}},
		{"a pointer to a struct", "several keys", func() error { _, err := config.BindDir[struct{ A *pools }](s, "dir"); return err }},
		{"a channel", "cannot be stored", func() error { _, err := config.BindDir[struct{ A chan int }](s, "dir"); return err }},
		{"a name with a slash at its end", "trailing", func() error {
			_, err := config.BindDir[struct {
				A int `config:"a/"`
			}](s, "dir")
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := c.call()
			require.ErrorIs(t, err, config.ErrInvalid)
			assert.ErrorContains(t, err, c.text)
		})
	}
	t.Cleanup(func() { assert.Zero(t, s.Stats().Bound) })
}

// fakePanickingJSON panics when it is encoded as its zero value, and when it is decoded.
type fakePanickingJSON struct{ n *int }

func (a fakePanickingJSON) MarshalJSON() ([]byte, error) { return json.Marshal(*a.n) }
func (a *fakePanickingJSON) UnmarshalJSON([]byte) error  { panic("oh") }

func TestBind_DecoderPanicIsBadValue(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "dir/a", "1")
	s := open(t, p)
	_, err := config.Get[fakePanickingJSON](s, "dir/a")
	require.ErrorIs(t, err, kv.ErrDecode)
	_, err = config.Set(t.Context(), s, "dir/a", fakePanickingJSON{})
	var panicked *config.PanicError
	require.ErrorAs(t, err, &panicked)
	v := bindDir[struct {
		A *fakePanickingJSON
		B int
	}](t, s, "none")
	assert.Nil(t, v.Load().A)
	_, err = config.BindDir[struct{ A fakePanickingJSON }](s, "dir")
	require.ErrorIs(t, err, kv.ErrDecode)
	_, err = config.BindDir(s, "dir", config.WithDefault(struct{ A fakePanickingJSON }{}))
	require.NoError(t, err, "the default stands in")
}

// fakeQuotingText panics when it is decoded, with a text that quotes the value or with a runtime
// error.
type fakeQuotingText struct{ n int }

func (v fakeQuotingText) MarshalText() ([]byte, error) {
	return strconv.AppendInt(nil, int64(v.n), 10), nil
}

func (v *fakeQuotingText) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		v.n = int(b[0])
	}
	panic("cannot read " + string(b))
}

func TestBind_DecoderPanicDoesNotQuoteValue(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "dir/a", "s3cret")
	put(t, p, "dir/empty", "")
	s := open(t, p)
	_, err := config.Get[fakeQuotingText](s, "dir/a")
	require.ErrorIs(t, err, kv.ErrDecode)
	assert.NotContains(t, err.Error(), "s3cret")
	_, err = config.Get[fakeQuotingText](s, "dir/empty")
	require.ErrorContains(t, err, "its decoder panicked: runtime error: index out of range [0] with length 0")
	_, err = config.Bind[fakeQuotingText](s, "dir/a")
	require.ErrorIs(t, err, kv.ErrDecode)
	assert.NotContains(t, err.Error(), "s3cret")
	v := bindDir(t, s, "dir", config.WithDefault(struct{ A *fakeQuotingText }{}))
	require.ErrorIs(t, v.Err(), kv.ErrDecode)
	assert.NotContains(t, v.Err().Error(), "s3cret")
}

func TestBind_WhileValuesChange(t *testing.T) {
	t.Parallel()
	p := parttest.Shared(t)
	put(t, p, "rate", "0")
	s := open(t, p)
	var last atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range int64(shortOrLong(300, 3000)) {
			_, err := config.Set(t.Context(), s, "rate", i)
			assert.NoError(t, err)
			last.Store(i)
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if s.Stats().Bound > 200 {
			<-done
			running = false
		}
		atLeast := last.Load()
		v := bind[int64](t, s, "rate")
		assert.GreaterOrEqual(t, v.Load(), atLeast)
	}
	v := bind[int64](t, s, "rate")
	assert.Equal(t, last.Load(), v.Load())
}
