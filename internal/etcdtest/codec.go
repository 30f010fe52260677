package etcdtest

import (
	"errors"
	"strings"
)

// BoundCodec is a codec of strings that stores the key with the value. It rejects a value that was
// written for another key.
type BoundCodec struct{}

// Encode returns the key and the value.
func (BoundCodec) Encode(key, v string) ([]byte, error) { return []byte(key + "=" + v), nil }

// Decode returns the value if it was written for key.
func (BoundCodec) Decode(key string, b []byte) (string, error) {
	v, ok := strings.CutPrefix(string(b), key+"=")
	if !ok {
		return "", errors.New("the value was written for another key")
	}
	return v, nil
}
