package main

import (
	"encoding/base64"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/etcdkit/etcdkit/kv"
)

// base64Name is the encoding of values that JSON cannot carry as they are.
const base64Name = "base64"

// parseValue returns a value of a request body. name is its field.
func (s *service) parseValue(name string, raw *string, encoding string) ([]byte, error) {
	if raw == nil {
		return nil, badBody("field \"" + name + "\" is missing")
	}
	if isBlank(*raw) && !s.set.Gateway.AllowBlank {
		return nil, &refusal{
			status: http.StatusBadRequest, code: "blank",
			text: "field \"" + name + "\" is blank, which this gateway does not allow",
		}
	}
	switch encoding {
	case "", "utf8":
		return []byte(*raw), nil
	case base64Name:
		value, err := base64.StdEncoding.Strict().DecodeString(*raw)
		if err != nil || strings.ContainsAny(*raw, "\r\n") { // the decoder skips line breaks
			return nil, badBody(fmt.Sprintf("field %q is not base64", name))
		}
		return value, nil
	}
	return nil, badBody(`field "encoding" must be "utf8" or "base64"`)
}

// isBlank reports whether s is empty or has nothing but spaces and control characters, as
// Java's String.trim and with it @NotBlank have it.
func isBlank(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c > ' ' }) < 0
}

// withTTL returns the option for a time to live. kv refuses what etcd does not accept.
func withTTL(seconds *int64) ([]kv.PutOption, error) {
	switch {
	case seconds == nil:
		return nil, nil
	case *seconds < 1:
		return nil, badBody("ttlSeconds must be at least 1")
	case *seconds > math.MaxInt64/int64(time.Second):
		return nil, badBody("ttlSeconds is larger than etcd can count")
	}
	return []kv.PutOption{kv.WithTTL(time.Duration(*seconds) * time.Second)}, nil
}

// plainText returns a value as a JSON string, which it can only be if it is UTF-8.
func plainText(value []byte) (string, error) {
	if !utf8.Valid(value) {
		return "", notText("the value")
	}
	return string(value), nil
}

// notText refuses an answer that JSON cannot carry without an encoding.
func notText(what string) error {
	return &refusal{
		status: http.StatusNotAcceptable, code: "not_text",
		text: what + " is not UTF-8: use ?metadata=true, which answers in base64",
	}
}

// text returns a key or a value as a JSON string, in base64 if it is not UTF-8.
func text(b []byte) (s, encoding string) {
	if utf8.Valid(b) {
		return string(b), ""
	}
	return base64.StdEncoding.EncodeToString(b), base64Name
}

// weightOf returns an upper bound of the length of text(b) in JSON.
func weightOf(b []byte) int {
	if !utf8.Valid(b) {
		return base64.StdEncoding.EncodedLen(len(b))
	}
	n := len(b)
	for _, c := range string(b) {
		switch {
		case c < ' ':
			n += 5 // \u0000
		case c == '\u2028', c == '\u2029':
			n += 3
		case c == '"', c == '\\':
			n++
		}
	}
	return n
}
