package config

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/strict"
	"github.com/etcdkit/etcdkit/kv"
)

// ErrValidation means that a function given to [WithValidate] refused a value. Errors that match it
// also match the function's error.
var ErrValidation = errors.New("refused by validation")

// Conditions shared with the other packages; the values are identical. Errors also match
// kv.ErrNotFound (no value and no default), kv.ErrDecode, kv.ErrTooLarge, kv.ErrConflict,
// kv.ErrCompacted and kv.ErrUnknownOutcome.
var (
	// ErrInvalid means that an argument or a file is invalid. Nothing was sent.
	ErrInvalid = errs.Invalid
	// ErrClosed means that the source or its client is closed.
	ErrClosed = errs.Closed
	// ErrUnavailable means that etcd could not be reached or has no quorum.
	ErrUnavailable = errs.Unavailable
	// ErrPermission means that the user may not read the directory.
	ErrPermission = errs.Permission
)

// A BadValueError describes a value that cannot be used because it is missing, too large, cannot be
// decoded, or was refused by validation.
type BadValueError struct {
	// Key is relative to the source's directory. It is the directory if no single key is at fault.
	Key      string
	Revision int64  // of the write or deletion; 0 if the value is not from etcd
	Origin   Origin // where the value comes from
	Err      error  // matches kv.ErrDecode, ErrValidation, kv.ErrTooLarge or kv.ErrNotFound
}

// Error describes the value's origin and what is wrong with it. It never quotes the value.
func (e *BadValueError) Error() string {
	text := "bad value"
	if e.Revision > 0 {
		text += " at revision " + strconv.FormatInt(e.Revision, 10)
	} else if e.Origin != Live {
		text += " from the " + e.Origin.String()
	}
	return text + ": " + e.Err.Error()
}

// Unwrap returns e.Err.
func (e *BadValueError) Unwrap() error { return e.Err }

// badValuesError holds the invalid keys of a directory.
type badValuesError []*BadValueError

// Error lists the keys and what is wrong with each.
func (e badValuesError) Error() string {
	texts := make([]string, 0, len(e))
	for _, bad := range e {
		texts = append(texts, "key "+errs.Quote(bad.Key)+": "+bad.Error())
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the errors of the keys.
func (e badValuesError) Unwrap() []error {
	out := make([]error, 0, len(e))
	for _, bad := range e {
		out = append(out, bad)
	}
	return out
}

// listBad returns the errors about single keys in err.
func listBad(err error) badValuesError {
	if list, ok := errors.AsType[badValuesError](err); ok {
		return list
	}
	if bad, ok := errors.AsType[*BadValueError](err); ok {
		return badValuesError{bad}
	}
	return nil
}

// A PanicError is a recovered panic of a callback or of a method of a value's type.
type PanicError struct {
	Value any    // argument of panic
	Stack []byte // stack trace
}

// Error returns the text of the panic's value.
func (e *PanicError) Error() string { return "panic: " + fmt.Sprint(e.Value) }

// Unwrap returns e.Value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// opError wraps the error of an operation that changed nothing.
func opError(op, key string, err error) error {
	return &errs.Error{Pkg: "config", Op: op, Key: key, NotApplied: true, Err: err}
}

// kvError wraps an error of kv and keeps what it says about the outcome.
func kvError(op, key string, err error) error {
	return &errs.Error{Pkg: "config", Op: op, Key: key, NotApplied: errs.NotApplied(err), Err: errs.Cause(err)}
}

// decodeError says why bytes cannot be decoded, without quoting them.
type decodeError struct {
	text  string
	cause error // may be nil
}

// Error describes what is wrong.
func (e *decodeError) Error() string { return kv.ErrDecode.Error() + ": " + e.text }

// Unwrap returns kv.ErrDecode and the decoder's error, if any.
func (e *decodeError) Unwrap() []error {
	if e.cause == nil {
		return []error{kv.ErrDecode}
	}
	return []error{kv.ErrDecode, e.cause}
}

// panicError describes a decoder's panic. It omits the text unless the panic is a runtime error,
// because the text may quote the value.
func panicError(panicked error) error {
	text := "its decoder panicked"
	if e, ok := errors.AsType[runtime.Error](panicked); ok {
		text += ": " + e.Error()
	}
	return &decodeError{text: text, cause: panicked}
}

// decoderError describes a decoder's error without its text, which may quote the value.
func decoderError(what string, err error) error {
	return &decodeError{text: what + ": " + strict.Describe(err), cause: err}
}
