package strict_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/strict"
)

// secret hides its value.
type secret struct{ text string }

func (s secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

func (s *secret) UnmarshalText(b []byte) error {
	s.text = string(b)
	return nil
}

// level quotes what it refuses.
type level int

func (l *level) UnmarshalText(b []byte) error {
	if string(b) != "info" {
		return fmt.Errorf("level %q is unknown", b)
	}
	*l = 1
	return nil
}

// policy decodes itself, and quotes what it refuses.
type policy struct{ max int }

func (p *policy) UnmarshalJSON(b []byte) error {
	var in map[string]any
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	for name, v := range in {
		if name != "max" {
			return errors.New("unknown limit " + name)
		}
		n, ok := v.(float64)
		if !ok {
			return fmt.Errorf("limit %v is no number", v)
		}
		p.max = int(n)
	}
	return nil
}

// base is embedded in settings.
type base struct {
	Name string `json:"name"`
}

type settings struct {
	base

	User     string            `json:"user"`
	Password secret            `json:"password"`
	Tokens   []secret          `json:"tokens"`
	Every    time.Duration     `json:"every"`
	Level    level             `json:"level"`
	Policy   policy            `json:"policy"`
	Labels   map[string]string `json:"labels"`
	Keys     map[string]secret `json:"keys"`
	Inner    *settings         `json:"inner"`
	Any      any               `json:"any"`
	Untagged int
	Hidden   int `json:"-"`
}

func TestUnmarshalYAML_ReadsEveryKindOfField(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]settings{
		"":            {User: "default"},
		"# comment\n": {User: "default"},
		"~":           {User: "default"},
		"name: nn\nuser: u\npassword: 'p'\ntokens: [a, b]\nevery: 5\nlevel: info\npolicy: {max: 3}\nUntagged: 7\n": {
			base: base{"nn"}, User: "u", Password: secret{"p"}, Tokens: []secret{{"a"}, {"b"}}, Every: 5, Level: 1, Policy: policy{3}, Untagged: 7,
		},
		"labels: {a: x, A: z}\nkeys: {k: v}\nany: {a: [1, {A: 2, a: 3}]}\ninner: {user: u}\n": {
			User: "default", Labels: map[string]string{"a": "x", "A": "z"}, Keys: map[string]secret{"k": {"v"}},
			Any: map[string]any{"a": []any{1.0, map[string]any{"A": 2.0, "a": 3.0}}}, Inner: &settings{User: "u"},
		},
		"any: &a {x: 1}\ninner: {any: *a} # password: *b\n": {
			User: "default", Any: map[string]any{"x": 1.0}, Inner: &settings{Any: map[string]any{"x": 1.0}},
		},
		"user: \"password: !x\"\npassword: \"!x *y &z\"": {User: "password: !x", Password: secret{"!x *y &z"}},
	} {
		got := settings{User: "default"}
		require.NoError(t, strict.UnmarshalYAML([]byte(text), &got, strict.ExactCase), text)
		assert.Equal(t, want, got, text)
	}
}

func TestUnmarshalJSON_AcceptsAnyCaseIfAsked(t *testing.T) {
	t.Parallel()
	var got settings
	require.NoError(t, strict.UnmarshalJSON([]byte(`{"USER": "u", "untagged": 1}`), &got, strict.AnyCase))
	assert.Equal(t, settings{User: "u", Untagged: 1}, got)
	require.ErrorContains(t, strict.UnmarshalJSON([]byte(`{"User": "u"}`), &got, strict.ExactCase), `JSON: unknown field "User"`)
	require.ErrorContains(t, strict.UnmarshalJSON([]byte(`{"user": "u", "User": "v"}`), &got, strict.AnyCase), `JSON: field "User" is already set`)
}

func TestUnmarshal_ErrorsSayWhatIsWrongWithoutValues(t *testing.T) {
	t.Parallel()
	const planted = "hunter2"
	for text, want := range map[string]string{
		"password: *hunter2":                        "YAML: an alias has no anchor",
		"password: !hunter2":                        `YAML: field "password": a secret is a string (put it in quotes)`,
		"password: !x hunter2":                      `YAML: field "password": a secret is a string (put it in quotes)`,
		"password: &hunter2":                        `YAML: field "password": a secret is a string (put it in quotes)`,
		"password: &x hunter2":                      `YAML: field "password": a secret is a string (put it in quotes)`,
		"user: &x hunter2\npassword: *x":            `YAML: field "password": a secret is a string (put it in quotes)`,
		"inner: {password: !x hunter2}":             `YAML: field "inner.password": a secret is a string (put it in quotes)`,
		"tokens: [!x hunter2]":                      `YAML: field "tokens": a secret is a string (put it in quotes)`,
		"keys: {k: !x hunter2}":                     `YAML: field "keys.k": a secret is a string (put it in quotes)`,
		"any: &a {password: !x hunter2}\ninner: *a": `YAML: field "inner.password": a secret is a string (put it in quotes)`,
		"password: !!int hunter2":                   "YAML: a value is not of the type of its tag",
		"password: 0123":                            `YAML: field "password": a secret is a string (put it in quotes)`,
		"password: ~":                               `YAML: field "password": a secret is a string (put it in quotes)`,
		"password: hunter2: x":                      "YAML: a colon is where none may be (quotes are missing?)",
		"user: hunter2\n  hunter3: x":               "YAML: line 2: a colon is where none may be (quotes are missing?)",
		"password: [hunter2]":                       `YAML: field "password": a secret is a string (put it in quotes)`,
		"password: {hunter2: 1}":                    `YAML: field "password": a secret is a string (put it in quotes)`,
		"password: \"hunter\\2\"":                   "YAML: an escape in double quotes is unknown",
		"password: @hunter2":                        "YAML: a value begins with a character that needs quotes",
		"password: [hunter2":                        "YAML: line 1: a bracket, comma or indentation is not where it belongs",
		"user: |\n\thunter2":                        "YAML: line 2: a tab is used for indentation",
		"[hunter2]: x":                              "YAML: the name of a field is no string",
		"hunter2":                                   "YAML: string where strict_test.settings is expected",
		"user: a\nuser: hunter2":                    "YAML: line 2: a field is already set",
		"user: a\n---\nuser: hunter2":               "YAML: something follows the document",
		"every: hunter2":                            `YAML: field "every": string where a duration is expected`,
		"level: hunter2":                            `YAML: field "level": not a valid strict_test.level`,
		"level: \"hunter2\\n\"":                     `YAML: field "level": not a valid strict_test.level`,
		"policy: {max: hunter2}":                    `YAML: field "policy": not a valid strict_test.policy`,
		"policy: {min: 1}":                          `YAML: field "policy": unknown limit min`,
		"inner: {Hidden: hunter2}":                  `YAML: unknown field "Hidden"`,
		"&a {any: [hunter2, *a]}":                   "YAML: line 1: an alias is part of what it stands for",
		`{"policy": {"max": 1, "max": 2}}`:          "YAML: line 1: a field is already set",
	} {
		err := strict.UnmarshalYAML([]byte(text), &settings{}, strict.ExactCase)
		assert.EqualError(t, err, want, text)
		assert.NotContains(t, err.Error(), planted)
	}
	for text, want := range map[string]string{
		``:                                       "JSON: it ends too early",
		`{"user":`:                               "JSON: it ends too early",
		`{"user": hunter2}`:                      "JSON: syntax error at byte 10",
		`{"user": "a", "user": "b"}`:             `JSON: field "user" is already set`,
		`{"any": {"a": [{"x": 1, "x": 2}]}}`:     `JSON: field "x" is already set`,
		`{"policy": {"max": 1, "max": 2}}`:       `JSON: field "max" is already set`,
		`{"labels": {"a": "b", "a": "hunter2"}}`: `JSON: field "a" is already set`,
		`{"tokens": ["a", 5]}`:                   `JSON: field "tokens": a secret is a string (put it in quotes)`,
		`{"inner": {"inner": {"no": 1}}}`:        `JSON: unknown field "no"`,
		`{"inner": {"user": 4711}}`:              `JSON: field "inner.user": number where string is expected`,
		`{} "hunter2"`:                           "JSON: something follows the value",
		`[{}]`:                                   "JSON: array where strict_test.settings is expected",
	} {
		err := strict.UnmarshalJSON([]byte(text), &settings{}, strict.ExactCase)
		assert.EqualError(t, err, want, text)
		assert.NotContains(t, err.Error(), planted)
	}
}

// A document of 100 KB that took 300 MiB.
func TestYAMLToJSON_BoundsWhatAliasesExpandTo(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100_000)
	flat := "a: &a " + long + "\nb: [" + strings.Repeat("*a,", 1000) + "]\n"
	var nested strings.Builder
	nested.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := range 9 {
		fmt.Fprintf(&nested, "a%d: &a%d [%s]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d,", i), 10))
	}
	merged := "a: &a {k: " + long + "}\nb:\n" + strings.Repeat("- {<<: *a}\n", 1000)
	for _, doc := range []string{flat, nested.String(), merged} {
		out, err := strict.YAMLToJSON([]byte(doc))
		require.ErrorContains(t, err, "YAML: its aliases expand to more than")
		assert.Nil(t, out)
	}
	out, err := strict.YAMLToJSON([]byte("a: &a " + long + "\nb: [*a, *a]\n"))
	require.NoError(t, err, "what a person would write is not refused")
	assert.Greater(t, len(out), 3*len(long))
	plain := "b: [" + strings.Repeat(`"",`, 100_000) + "]\n"
	_, err = strict.YAMLToJSON([]byte(plain))
	require.NoError(t, err, "nor is a document without aliases, whatever its size")
}

func FuzzUnmarshal(f *testing.F) {
	for _, seed := range []string{"user: u", "&a [*a]", "password: !x y", `{"keys": {"a": "b"}}`, "a: &a {}\nb: {<<: *a}", "? [x]\n: y", "--- ~\n...\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var fromYAML, again settings
		if err := strict.UnmarshalYAML(b, &fromYAML, strict.ExactCase); err == nil {
			out, err := strict.YAMLToJSON(b)
			require.NoError(t, err)
			require.NoError(t, strict.UnmarshalJSON(out, &again, strict.ExactCase), "what YAML allows is allowed as JSON")
			assert.Equal(t, fromYAML, again)
		}
		var fromJSON, plain settings
		if err := strict.UnmarshalJSON(b, &fromJSON, strict.AnyCase); err == nil {
			require.NoError(t, json.Unmarshal(b, &plain))
			assert.Equal(t, plain, fromJSON, "what is allowed is decoded as encoding/json does")
		}
	})
}
