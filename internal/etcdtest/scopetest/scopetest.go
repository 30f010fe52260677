// Package scopetest helps to test what parts report to the scope of their client.
package scopetest

import (
	"log/slog"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/scope"
)

// New returns a scope with hooks whose logger discards.
func New(h scope.Hooks) *scope.Scope { return scope.New(slog.New(slog.DiscardHandler), h) }

// Option returns the option of type O that makes a part call hooks.
func Option[O any](h scope.Hooks) O { return scope.Option[O](New(h)) }

// Values returns the values of the metrics of s by name and label value, as in "a" and `b{x}`, and
// checks that no series comes twice and that their names are valid.
func Values(tb testing.TB, s *scope.Scope) map[string]float64 {
	tb.Helper()
	name := regexp.MustCompile(`^etcdkit_[a-z]+(_[a-z]+)+$`)
	values := map[string]float64{}
	for _, m := range s.Metrics() {
		var b strings.Builder
		b.WriteString(m.Name)
		for _, l := range m.Labels {
			b.WriteString("{" + l[1] + "}")
		}
		id := b.String()
		assert.NotContains(tb, values, id)
		values[id] = m.Value
		assert.Regexp(tb, name, m.Name)
		assert.Equal(tb, m.Counter, strings.HasSuffix(m.Name, "_total"), m.Name)
		assert.Equal(tb, m.Unit == "seconds", strings.HasSuffix(m.Name, "_seconds"), m.Name)
		assert.Equal(tb, m.Counter, !m.Start.IsZero(), m.Name)
		assert.True(tb, strings.HasSuffix(m.Help, "."), m.Name)
	}
	return values
}

// Complete checks that a table shows each number of S once. Fields that are Stats of other parts
// are left out, except for embedded ones.
func Complete[S any](t *testing.T, table scope.Table[S]) {
	t.Helper()
	var stats S
	next, fields := 100.0, map[float64]string{}
	number(t, reflect.ValueOf(&stats).Elem(), &next, fields)
	require.NotEmpty(t, fields)
	sc := New(scope.Hooks{})
	scope.Track(sc, table, "x", func() S { return stats })
	for name, value := range Values(t, sc) {
		assert.Contains(t, fields, value, "%s shows something else", name)
		delete(fields, value)
	}
	assert.Empty(t, fields, "no metric shows them")
}

// number sets every number of a struct to another value, and a bool to true, which is 1.
func number(t *testing.T, v reflect.Value, next *float64, fields map[float64]string) {
	t.Helper()
	for i := range v.NumField() {
		f, field := v.Field(i), v.Type().Field(i)
		*next++
		n := int(*next)
		switch {
		case f.Kind() == reflect.Struct && field.Anonymous:
			number(t, f, next, fields)
			continue
		case f.Kind() == reflect.Struct:
			continue
		case f.Type() == reflect.TypeFor[time.Duration]():
			f.SetInt(int64(n) * int64(time.Second))
		case f.CanInt():
			f.SetInt(int64(n))
		case f.CanUint():
			f.SetUint(uint64(n))
		case f.Kind() == reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), n, n))
		case f.Kind() == reflect.Bool:
			f.SetBool(true)
			fields[1] = field.Name
			continue
		default:
			require.Fail(t, "unknown kind of field", field.Name)
		}
		fields[*next] = field.Name
	}
}
