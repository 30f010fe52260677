package etcdkit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"unique"
)

// redacted is what every printed form of a Secret shows.
const redacted = "[redacted]"

// Secret is a string that fmt, log/slog and the packages below encoding do not reveal, whether it stands in an exported
// or an unexported field. What they show instead is "[redacted]", or nothing for the empty secret; package
// encoding/gob refuses to encode it. The zero Secret is empty. Equal secrets are equal with ==.
//
// A Secret is read from a JSON or YAML string, or from a text.
type Secret struct {
	handle unique.Handle[string] // zero if the secret is empty; fmt prints its address
}

// NewSecret returns s as a secret.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{handle: unique.Make(s)}
}

// Reveal returns the secret itself.
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	return s.handle.Value()
}

// IsZero reports whether s is empty.
func (s Secret) IsZero() bool { return s == Secret{} }

// String returns "[redacted]", or "" if s is empty.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// GoString returns String in quotes.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// Format prints String for every verb.
func (s Secret) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'q' || verb == 'v' && f.Flag('#') {
		text = s.GoString()
	}
	_, _ = io.WriteString(f, text)
}

// LogValue returns String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText returns String.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON returns String as a JSON string.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// UnmarshalText sets s to text. It refuses "[redacted]", which is no password but shows that a program has written the
// configuration.
func (s *Secret) UnmarshalText(text []byte) error {
	if string(text) == redacted {
		return errors.New("a redacted secret cannot be read back")
	}
	*s = NewSecret(string(text))
	return nil
}

// UnmarshalJSON sets s to a JSON string.
func (s *Secret) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return errors.New("a secret is a string") // the error of the decoder could quote it
	}
	return s.UnmarshalText([]byte(text))
}
