package redact_test

import (
	"encoding/json"
	"errors"
	"math/big"
	"net/netip"
	"reflect"
	"testing"
	"time"
	"unique"

	"github.com/stretchr/testify/assert"

	"github.com/etcdkit/etcdkit/internal/redact"
)

// secret hides its value from text and JSON, as etcdkit.Secret does.
type secret struct{ h unique.Handle[string] }

func (s secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }
func (s secret) Reveal() string               { return s.h.Value() }

func (s *secret) UnmarshalText(b []byte) error {
	if string(b) == "[redacted]" {
		return errors.New("redacted")
	}
	s.h = unique.Make(string(b))
	return nil
}

// masked is a string that only its JSON hides.
type masked string

func (masked) MarshalJSON() ([]byte, error) { return []byte(`"<secret>"`), nil }

// level has few values, and reads all other text as the first of them.
type level int

func (l level) MarshalText() ([]byte, error)  { return []byte("info"), nil }
func (l *level) UnmarshalText(_ []byte) error { *l = 0; return nil }

// broken panics on every value.
type broken struct{ p *int }

func (b broken) MarshalJSON() ([]byte, error)  { return json.Marshal(*b.p) }
func (b *broken) UnmarshalJSON(_ []byte) error { return nil }
func (b *broken) UnmarshalText(_ []byte) error { return nil }
func (b broken) MarshalText() ([]byte, error)  { return nil, errors.New("never") }
func typeOf[T any]() (t reflect.Type)          { return reflect.TypeFor[T]() }

type list struct {
	Next *list
	Auth struct {
		User     string
		Password secret `json:"password"`
	}
}

func TestText_HiddenValuesAreFound(t *testing.T) {
	t.Parallel()
	for typ, want := range map[reflect.Type]bool{
		typeOf[secret](): true, typeOf[level](): false, typeOf[masked](): false, typeOf[string](): false,
		typeOf[time.Time](): false, typeOf[netip.Addr](): false, typeOf[big.Int](): false, typeOf[broken](): false,
	} {
		assert.Equal(t, want, redact.Text(typ), typ)
	}
}

func TestJSON_HiddenPartsAreFound(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		typ    reflect.Type
		path   string
		hidden bool
	}{
		{typ: typeOf[secret](), hidden: true},
		{typ: typeOf[*secret](), hidden: true},
		{typ: typeOf[masked](), hidden: true},
		{typ: typeOf[[]secret](), hidden: true},
		{typ: typeOf[map[string]masked](), hidden: true},
		{typ: typeOf[list](), path: "Auth.Password", hidden: true},
		{typ: typeOf[struct{ secret }](), hidden: true},
		{typ: typeOf[struct {
			S secret `json:"-"`
			s secret
			T time.Time
			A any
		}]()},
		{typ: typeOf[struct{ B broken }]()},
		{typ: typeOf[map[string][]int]()},
		{typ: typeOf[json.RawMessage]()},
		{typ: typeOf[level]()},
	} {
		path, hidden := redact.JSON(tt.typ)
		assert.Equal(t, tt.hidden, hidden, tt.typ)
		assert.Equal(t, tt.path, path, tt.typ)
	}
}

func TestReveal_ReturnsValuesOfRevealers(t *testing.T) {
	t.Parallel()
	s := secret{unique.Make("hunter2")}
	for _, v := range []any{s, &s} {
		text, ok := redact.Reveal(v)
		assert.True(t, ok)
		assert.Equal(t, "hunter2", text)
	}
	_, ok := redact.Reveal(masked("hunter2"))
	assert.False(t, ok)
}
