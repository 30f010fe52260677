package config_test

import (
	"encoding/json"
	"math/big"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/config"
	"github.com/etcdkit/etcdkit/kv"
)

// allTypes has a field of each kind.
type allTypes struct {
	S     string
	By    []byte
	B     bool
	I8    int8
	I     int
	U     uint16
	F32   float32
	F     float64
	D     time.Duration
	T     time.Time
	A     netip.Addr
	Big   *big.Int
	P     *int
	L     []string
	M     map[string]int
	Doc   banner            `config:"doc,json"`
	Y     map[string]string `config:"y.yaml"`
	Dir   map[string]mode   `config:"dir,dir"`
	Sub   pools
	Named mode `config:"x/y/z" default:"z"`
}

func FuzzBindDir(f *testing.F) {
	f.Add("s", "text", "i", "12", true)
	f.Add("d", "5s", "t", "2030-01-02T03:04:05Z", false)
	f.Add("doc", `{"text":"x","days":[1]}`, "m", `{"a":1}`, true)
	f.Add("y.yaml", "a: b\n", "dir/x", "1", false)
	f.Add("sub/max", " 7\n", "x/y/z", "\x00", false)
	f.Add("big", "123456789012345678901234567890", "a", "::1", true)
	f.Add("p", "1", "f", "1e308", false)
	f.Add("u", "65536", "f32", "NaN", false)
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string, strict bool) {
		values := map[string]string{k1: v1, k2: v2}
		x, err := config.FillStruct[allTypes](values, strict)
		if err != nil {
			var bad *config.BadValueError
			require.ErrorAs(t, err, &bad)
			require.ErrorIs(t, err, kv.ErrDecode)
			assert.Contains(t, values, bad.Key)
			return
		}
		stored, err := config.EncodeStruct(x)
		if err != nil {
			require.ErrorIs(t, err, config.ErrInvalid) // such as a year of five digits
			return
		}
		y, err := config.FillStruct[allTypes](stored, true)
		require.NoError(t, err, "what was written is read")
		again, err := config.EncodeStruct(y)
		require.NoError(t, err)
		assert.Equal(t, stored, again, "and is the same")
	})
}

func FuzzTags(f *testing.F) {
	f.Add(`config:"a,required"`, "A")
	f.Add(`config:",dir" default:"1"`, "HTTPPort")
	f.Add(`config:"a//b,json"`, "B")
	f.Add(`config:"-"`, "C")
	f.Fuzz(func(t *testing.T, tag, name string) {
		if !isGoName(name) {
			return
		}
		for _, typ := range []reflect.Type{reflect.TypeFor[int](), reflect.TypeFor[string](), reflect.TypeFor[map[string]int](), reflect.TypeFor[pools](), reflect.TypeFor[chan int]()} {
			err := config.SchemaError(reflect.StructOf([]reflect.StructField{{Name: name, Type: typ, Tag: reflect.StructTag(tag)}}))
			if err != nil {
				require.ErrorIs(t, err, config.ErrInvalid)
			}
		}
	})
}

// isGoName reports whether a struct field may be called so.
func isGoName(name string) bool {
	return name != "" && 'A' <= name[0] && name[0] <= 'Z' &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
}

func FuzzFiles(f *testing.F) {
	f.Add([]byte("a: 1\nb: text\nc: [1, 2]\n"))
	f.Add([]byte(`{"a": "x", "b": null}`))
	f.Add([]byte(`{"format":"etcdkit config 1","dir":"dir/","values":{"a":{"base64":"AA=="}}}`))
	f.Add([]byte("? [a]\n: b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		values, err := config.ParseFallback(b, false)
		if err == nil {
			for key, value := range values {
				written, err := json.Marshal(map[string]string{key: value})
				require.NoError(t, err)
				again, err := config.ParseFallback(written, true)
				require.NoError(t, err)
				assert.Equal(t, strings.ToValidUTF8(value, "\ufffd"), again[key])
			}
			again, err := config.StateRoundTrip(values)
			require.NoError(t, err)
			assert.Equal(t, values, again)
		}
		_, _ = config.ParseFallback(b, true)
		_ = config.ParseState(b)
		again, err := config.StateRoundTrip(map[string]string{"key": string(b)})
		require.NoError(t, err)
		assert.Equal(t, map[string]string{"key": string(b)}, again)
	})
}

func TestNames_OfFieldsAndVariables(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]string{
		"Rate": "rate", "MaxConns": "max-conns", "HTTPPort": "http-port", "URL": "url", "UserID": "user-id", "X": "x",
		"IPv6Only": "i-pv6-only", "Max_Rate": "max_rate", "A1B": "a1-b", "ÜberRate": "über-rate",
	} {
		assert.Equal(t, want, config.Kebab(field))
	}
	assert.Equal(t, "HTTP_RATE_LIMIT_2__", config.Variable("http/rate-limit.2é"+"_"))
}
