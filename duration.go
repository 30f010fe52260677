package etcdkit

import (
	"encoding/json"
	"fmt"
	"time"
)

// Duration is a time.Duration that configuration files write as a string, such as "5s" or "1m30s".
// A bare number is an error, because its unit would be unclear.
type Duration time.Duration

// String formats the duration as in files.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText formats the duration as in files, such as "5s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText parses text with [time.ParseDuration].
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration %q is not of the form \"5s\"", text)
	}
	*d = Duration(v)
	return nil
}

// UnmarshalJSON parses a string such as "5s". null leaves the duration unchanged.
func (d *Duration) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("duration %s is not of the form \"5s\"", data)
	}
	return d.UnmarshalText([]byte(text))
}
