package etcdkit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"unique"
)

// redactedText is the printed form of a Secret.
const redactedText = "[redacted]"

// Secret is a string that fmt, log/slog and the packages below encoding do not reveal, in exported
// and in unexported fields. They print "[redacted]" instead, or nothing if the secret is empty;
// package encoding/gob returns an error. The zero Secret is empty. Equal secrets compare equal with
// ==.
//
// A Secret can be unmarshaled from a JSON or YAML string, or from text.
type Secret struct {
	handle unique.Handle[string] // zero if the secret is empty; fmt prints only its address
}

// NewSecret returns a Secret that contains s.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{handle: unique.Make(s)}
}

// Reveal returns the secret string.
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
	return redactedText
}

// GoString returns the result of String in quotes.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// Format prints the result of String for every verb, in quotes for %q and %#v.
func (s Secret) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'q' || verb == 'v' && f.Flag('#') {
		text = s.GoString()
	}
	_, _ = io.WriteString(f, text)
}

// LogValue returns the result of String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText returns the result of String.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON returns the result of String as a JSON string.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// UnmarshalText sets s to text. It returns an error for "[redacted]", which shows that the
// configuration was written by a program and has lost its secrets.
func (s *Secret) UnmarshalText(text []byte) error {
	if string(text) == redactedText {
		return errors.New("a redacted secret cannot be read back")
	}
	*s = NewSecret(string(text))
	return nil
}

// UnmarshalJSON sets s to a JSON string.
func (s *Secret) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return errors.New("a secret is a string") // the decoder's error could quote it
	}
	return s.UnmarshalText([]byte(text))
}
