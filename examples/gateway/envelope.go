package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
)

// envelope is the body of most answers.
type envelope struct {
	Success bool    `json:"success"`
	Data    any     `json:"data"`           // null if the request failed, but false after a lost compare-and-swap
	Error   *string `json:"error"`          // for people; null if the request succeeded
	Code    string  `json:"code,omitempty"` // for programs; absent if the request succeeded
}

// recorder writes an answer and records its status and size.
type recorder struct {
	http.ResponseWriter

	status   int
	bytes    int
	releases []func()
}

// onRelease registers f to be called once the answer is written.
func (w *recorder) onRelease(f func()) { w.releases = append(w.releases, f) }

// release releases what the answer has held in memory.
func (w *recorder) release() {
	for _, f := range w.releases {
		f()
	}
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// write sends a response.
func (w *recorder) write(a *response) error {
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

// writeError sends an error.
func (w *recorder) writeError(r *refusal) {
	body, err := marshal(envelope{Data: r.data, Error: &r.text, Code: r.code})
	if err != nil {
		body = nil // cannot happen: it is text
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
	w.bytes, _ = w.Write(body) // a client that has gone needs no answer
}

// marshal is json.Marshal without the escapes for HTML, which this is not.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return b.Bytes(), err
}
