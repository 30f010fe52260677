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

// CodecError is the error of a codec whose text may be shown, because it does not quote the value.
type CodecError struct {
	Text string
	Err  error // the condition
}

// Error returns the condition and the text.
func (e *CodecError) Error() string { return e.Err.Error() + ": " + e.Text }

// Unwrap returns the condition.
func (e *CodecError) Unwrap() error { return e.Err }

// DescribeCodecError says what is wrong with a value, as far as the type of the codec's error tells. The text of err itself
// may quote the value.
func DescribeCodecError(err error) string {
	if shown, ok := errors.AsType[*CodecError](err); ok {
		return shown.Error()
	}
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
