package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"unicode/utf8"
)

// envelope is what answers look like.
type envelope struct {
	Success bool    `json:"success"`
	Data    any     `json:"data"`           // null when it did not succeed
	Error   *string `json:"error"`          // for people; null when it succeeded
	Code    string  `json:"code,omitempty"` // for programs: what kind of error it is
}

// recorder writes an answer, and remembers what was written.
type recorder struct {
	http.ResponseWriter

	status int
	bytes  int
	held   []func() // gives back what the answer holds
}

// onRelease has f called when the answer is written.
func (w *recorder) onRelease(f func()) { w.held = append(w.held, f) }

// release gives back what the answer has held.
func (w *recorder) release() {
	for _, f := range w.held {
		f()
	}
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// write sends an answer.
func (w *recorder) write(a *answer) error {
	body, contentType := a.bare, a.contentType
	if body == nil {
		text, err := marshal(envelope{Success: true, Data: a.data})
		if err != nil {
			return err
		}
		body, contentType = text, "application/json"
	}
	w.send(a.status, contentType, a.header, body)
	return nil
}

// refuse sends an error.
func (w *recorder) refuse(r *refusal) {
	body, err := marshal(envelope{Error: &r.text, Code: r.code})
	if err != nil {
		body = nil // cannot be: it is text
	}
	w.send(r.status, "application/json", r.header, body)
}

func (w *recorder) send(status int, contentType string, header map[string]string, body []byte) {
	if status == 0 {
		status = http.StatusOK
	}
	head := w.Header()
	head.Set("Content-Type", contentType)
	head.Set("Content-Length", strconv.Itoa(len(body)))
	for name, value := range header {
		head.Set(name, value)
	}
	w.status = status
	w.WriteHeader(status)
	w.bytes, _ = w.Write(body) // who asked has gone
}

// marshal is json.Marshal that leaves <, > and & alone, since nobody takes this for HTML.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return b.Bytes(), err
}

// text is a key or a value as JSON can carry it: as it is, or in base64 where it is not UTF-8.
func text(value []byte) (s, encoding string) {
	if utf8.Valid(value) {
		return string(value), ""
	}
	return base64Of(value), base64Name
}

// weightOf is how many bytes text has at the most as JSON.
func weightOf(value []byte) int {
	if !utf8.Valid(value) {
		return base64.StdEncoding.EncodedLen(len(value))
	}
	n := len(value)
	for _, c := range string(value) {
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
