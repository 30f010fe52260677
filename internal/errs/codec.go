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

// CodecError is a codec error whose text does not quote the value and may therefore be shown.
type CodecError struct {
	Text string
	Err  error // the condition
}

// Error returns the condition and the text.
func (e *CodecError) Error() string { return e.Err.Error() + ": " + e.Text }

// Unwrap returns the condition.
func (e *CodecError) Unwrap() error { return e.Err }

// DescribeCodecError describes a codec error without quoting the value, as precisely as the type of
// err allows. The text of err itself may quote the value.
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
	got, _, _ := strings.Cut(mismatch.Value, " ") // the rest is the value
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
