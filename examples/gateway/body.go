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

// receive reads the body of a request. It does so before the request takes a slot, so that slow
// clients do not keep others from being served. As many bodies may arrive at a time as there are
// slots.
func (s *service) receive(r *http.Request) ([]byte, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, badContentType("the body must be application/json")
	}
	if r.Header.Get("Content-Encoding") != "" {
		return nil, badContentType("the body must not have a Content-Encoding")
	}
	select {
	case s.receiving <- struct{}{}:
		defer func() { <-s.receiving }()
	default:
		return nil, tooBusy("too many request bodies are arriving")
	}
	body, err := io.ReadAll(r.Body)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, err
	}
	if err != nil {
		return nil, badBody("it did not arrive completely")
	}
	return body, nil
}

// decode decodes the body of a request into a struct. A misspelt field must not be ignored in
// silence: unknown and repeated fields, data after the object, and text that would not come back as
// it was sent are errors.
func decode(r *request, into any) error {
	body := r.body
	if !utf8.Valid(body) || hasLoneSurrogate(body) {
		return badBody("its text is not UTF-8, or has half of a surrogate pair")
	}
	known := fieldsOf(reflect.TypeOf(into).Elem())
	if err := checkNames(json.NewDecoder(bytes.NewReader(body)), 0, known); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if err := dec.Decode(into); err != nil {
		return badBody(describe(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badBody("data follows the object")
	}
	return nil
}

// fieldsOf returns the names of the fields of a struct in JSON.
func fieldsOf(t reflect.Type) map[string]bool {
	out := map[string]bool{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		out[name] = true
	}
	return out
}

// describe returns what is wrong with JSON, without quoting it.
func describe(err error) string {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return "invalid JSON at byte " + strconv.FormatInt(e.Offset, 10)
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("field %q must be a %s", e.Field, e.Type)
	}
	return "it ends too early"
}

func badBody(cause string) error {
	return &refusal{status: http.StatusBadRequest, code: "bad_body", text: "invalid body: " + cause}
}

func badContentType(text string) error {
	return &refusal{status: http.StatusUnsupportedMediaType, code: "bad_content_type", text: text}
}

// maxDepth is deeper than any body that the gateway takes.
const maxDepth = 8

// checkNames checks a JSON value for what the decoder accepts: repeated names, of which the last
// wins, unknown fields, fields in other case, and deep nesting. known has the fields of the
// outermost object.
func checkNames(dec *json.Decoder, depth int, known map[string]bool) error {
	tok, err := dec.Token()
	if err != nil {
		return badBody(describe(err))
	}
	delim, nested := tok.(json.Delim)
	switch {
	case depth == 0 && delim != '{':
		return badBody("it must be an object")
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
		return badBody(describe(err))
	}
	return nil
}

// checkName checks the next name of an object.
func checkName(dec *json.Decoder, depth int, known, seen map[string]bool) error {
	tok, err := dec.Token()
	if err != nil {
		return badBody(describe(err))
	}
	name, _ := tok.(string)
	switch {
	case depth == 0 && !known[name]:
		return badBody(fmt.Sprintf("unknown field %.64q", name))
	case seen[name]:
		return badBody(fmt.Sprintf("field %.64q is set twice", name))
	}
	seen[name] = true
	return nil
}

// hasLoneSurrogate reports whether an escape such as \ud800 is half of a character, which the
// decoder would replace.
func hasLoneSurrogate(body []byte) bool {
	for i := 0; i+5 < len(body); {
		if body[i] != '\\' {
			i++
			continue
		}
		first, ok := parseEscape(body[i:])
		if !ok {
			i += 2 // another escape, such as \\ or \n
			continue
		}
		i += 6
		if !utf16.IsSurrogate(first) {
			continue
		}
		second, ok := parseEscape(body[i:])
		if !ok || utf16.DecodeRune(first, second) == utf8.RuneError {
			return true
		}
		i += 6
	}
	return false
}

// parseEscape returns the \uXXXX that b begins with.
func parseEscape(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return rune(n), err == nil
}
