package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// receive reads the body of a request. It happens before the request takes a slot, so that clients which send slowly do not
// keep others from being served; as many bodies as there are slots may be on their way.
func (s *service) receive(r *http.Request) ([]byte, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, &refusal{status: http.StatusUnsupportedMediaType, code: "bad_content_type", text: "the body has to be application/json"}
	}
	if r.Header.Get("Content-Encoding") != "" {
		return nil, &refusal{status: http.StatusUnsupportedMediaType, code: "bad_content_type", text: "the body must not be encoded"}
	}
	select {
	case s.receiving <- struct{}{}:
		defer func() { <-s.receiving }()
	default:
		return nil, busy("too many request bodies at a time")
	}
	body, err := io.ReadAll(r.Body)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, err
	}
	if err != nil {
		return nil, badBody("it did not arrive as it should")
	}
	return body, nil
}

// decode decodes the body of a request into a struct. It is strict, since what a client has misspelt would be left out without
// a word: no unknown field, no field twice, nothing behind the object, and no text that would not come back as it was.
func decode(r *request, into any) error {
	body := r.body
	if !utf8.Valid(body) || halfCharacter(body) {
		return badBody("its text is not UTF-8, or has half of a character")
	}
	if err := checkNames(json.NewDecoder(bytes.NewReader(body)), 0, fieldsOf(reflect.TypeOf(into).Elem())); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if err := dec.Decode(into); err != nil {
		return badBody(reason(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badBody("something follows the object")
	}
	return nil
}

// fieldsOf is the names of the fields of a struct in JSON.
func fieldsOf(t reflect.Type) map[string]bool {
	out := map[string]bool{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		out[name] = true
	}
	return out
}

// reason says what is wrong with JSON without quoting it.
func reason(err error) string {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return "no JSON at byte " + strconv.FormatInt(e.Offset, 10)
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("field %q is not of the type %s", e.Field, e.Type)
	}
	return "it ends too early"
}

func badBody(why string) error {
	return &refusal{status: http.StatusBadRequest, code: "bad_body", text: "the body cannot be used: " + why}
}

// maxDepth is more than any body here has.
const maxDepth = 8

// checkNames goes through a JSON value and refuses what the decoder would take: an object that has a name twice, of which
// the last would win, a field that is not known, or is spelled with other capitals, and values that are nested too deeply.
// known is the fields of the outermost object.
func checkNames(dec *json.Decoder, depth int, known map[string]bool) error {
	tok, err := dec.Token()
	if err != nil {
		return badBody(reason(err))
	}
	delim, nested := tok.(json.Delim)
	switch {
	case depth == 0 && delim != '{':
		return badBody("it is not an object")
	case !nested:
		return nil
	case depth == maxDepth:
		return badBody("it is nested too deeply")
	}
	seen := map[string]bool{}
	for dec.More() {
		if delim == '{' {
			if err := checkName(dec, depth, known, seen); err != nil {
				return err
			}
		}
		if err := checkNames(dec, depth+1, nil); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return badBody(reason(err))
	}
	return nil
}

// checkName takes the next name of an object.
func checkName(dec *json.Decoder, depth int, known, seen map[string]bool) error {
	tok, err := dec.Token()
	if err != nil {
		return badBody(reason(err))
	}
	name, _ := tok.(string)
	switch {
	case depth == 0 && !known[name]:
		return badBody(fmt.Sprintf("there is no field %.64q here", name))
	case seen[name]:
		return badBody(fmt.Sprintf("field %.64q is there twice", name))
	}
	seen[name] = true
	return nil
}

// halfCharacter finds an escape such as \ud800 that is half of a character: the decoder would put another in its place.
func halfCharacter(body []byte) bool {
	for i := 0; i+5 < len(body); {
		if body[i] != '\\' {
			i++
			continue
		}
		first, ok := escaped(body[i:])
		if !ok {
			i += 2 // another escape, such as \\ or \n
			continue
		}
		i += 6
		if !utf16.IsSurrogate(first) {
			continue
		}
		second, ok := escaped(body[i:])
		if !ok || utf16.DecodeRune(first, second) == utf8.RuneError {
			return true
		}
		i += 6
	}
	return false
}

// escaped is the \uXXXX that b begins with.
func escaped(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return rune(n), err == nil
}
