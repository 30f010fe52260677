package endpoint

import "strings"

// Error is an error of one endpoint.
type Error struct {
	Endpoint string
	Err      error
}

// Error returns the endpoint and the cause.
func (e *Error) Error() string { return e.Endpoint + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errors are the errors of several endpoints, formatted on one line.
type Errors []*Error

// Error returns the text of all errors.
func (e Errors) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the errors of the endpoints.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, err := range e {
		out[i] = err
	}
	return out
}
