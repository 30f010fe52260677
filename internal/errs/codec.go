package errs

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// DescribeCodecError says what is wrong with a value, as far as the type of the codec's error tells. The text of err itself
// may quote the value.
func DescribeCodecError(err error) string {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return "syntax error at byte " + strconv.FormatInt(syntax.Offset, 10)
	}
	mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return fmt.Sprintf("%T", err)
	}
	got, _, _ := strings.Cut(mismatch.Value, " ") // what follows is the value
	want := mismatch.Type.String()
	if mismatch.Type == reflect.TypeFor[time.Duration]() {
		want = "a duration"
	}
	text := got + " where " + want + " is expected"
	if mismatch.Field != "" {
		text = "field " + strconv.Quote(mismatch.Field) + ": " + text
	}
	return text
}
