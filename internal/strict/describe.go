package strict

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// Describe describes an error of encoding/json without quoting the value. For an error of an
// unknown type it returns the name of the type.
func Describe(err error) string {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok && syntax.Error() == "unexpected end of JSON input" {
		return "it ends too early"
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it ends too early"
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return "unknown field " + name
	}
	return errs.DescribeCodecError(err)
}

// describeCustom describes an error that a method of t, such as UnmarshalJSON, returned for raw. It
// returns the text of err if that quotes no part of raw, and otherwise only says what was expected.
func describeCustom(err error, t reflect.Type, raw []byte) string {
	text := err.Error()
	var value any
	switch {
	case json.Unmarshal(raw, &value) == nil && !quotesValue(text, value):
		return text
	case t.Kind() == reflect.Int64 && t.Name() == "Duration":
		return `not a duration such as "5s"`
	}
	return "not a valid " + t.String()
}

// quotesValue reports whether text contains a string or a number from a JSON value. Object keys,
// booleans and null do not count.
func quotesValue(text string, value any) bool {
	switch v := value.(type) {
	case nil, bool:
		return false
	case map[string]any:
		for _, part := range v {
			if quotesValue(text, part) {
				return true
			}
		}
		return false
	case []any:
		for _, part := range v {
			if quotesValue(text, part) {
				return true
			}
		}
		return false
	default:
		plain := fmt.Sprint(v)
		return plain != "" && (strings.Contains(text, plain) || strings.Contains(text, strings.Trim(strconv.Quote(plain), `"`)))
	}
}
