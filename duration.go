package etcdkit

import (
	"encoding/json"
	"fmt"
	"time"
)

// Duration is a time.Duration that configuration files write as a string: "5s", "1m30s". A bare number is refused,
// because nothing says what it counts.
type Duration time.Duration

// String is the form that files use.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes "5s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what [time.ParseDuration] reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration %q is not of the form \"5s\"", text)
	}
	*d = Duration(v)
	return nil
}

// UnmarshalJSON reads "5s"; null leaves the duration as it is.
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
