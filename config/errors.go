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

// ErrValidation means that a function given to [WithValidate] has refused a value. The error that it returned is matched
// as well.
var ErrValidation = errors.New("refused by validation")

// The conditions shared with the other packages; the values are the same everywhere. Besides them, errors match
// kv.ErrNotFound (no value, and no default), kv.ErrDecode, kv.ErrTooLarge, kv.ErrConflict, kv.ErrCompacted and
// kv.ErrUnknownOutcome.
var (
	// ErrInvalid means that the arguments, or a file, were refused before anything was sent.
	ErrInvalid = errs.Invalid
	// ErrClosed means that the source, or the client below it, is closed.
	ErrClosed = errs.Closed
	// ErrUnavailable means that etcd, or a quorum of it, did not answer or could not be reached.
	ErrUnavailable = errs.Unavailable
	// ErrPermission means that the user may not read what lies below the dir.
	ErrPermission = errs.Permission
)

// BadValueError is a value that cannot be used: it does not decode, was refused by validation, is too large, or is
// missing.
type BadValueError struct {
	Key      string // of the value, or of the dir where no one key is to blame; below the source's dir
	Revision int64  // at which it was written, or deleted; 0 where it does not come from etcd
	Origin   Origin // where it comes from
	Err      error  // matches kv.ErrDecode, ErrValidation, kv.ErrTooLarge or kv.ErrNotFound
}

// Error says where the value comes from and what is wrong with it. It never quotes the value.
func (e *BadValueError) Error() string {
	text := "bad value"
	if e.Revision > 0 {
		text += " at revision " + strconv.FormatInt(e.Revision, 10)
	} else if e.Origin != Live {
		text += " from the " + e.Origin.String()
	}
	return text + ": " + e.Err.Error()
}

// Unwrap gives the reason.
func (e *BadValueError) Unwrap() error { return e.Err }

// badValuesError is all that is wrong with the keys of a dir.
type badValuesError []*BadValueError

// Error says for each key what is wrong with it.
func (e badValuesError) Error() string {
	texts := make([]string, 0, len(e))
	for _, bad := range e {
		texts = append(texts, "key "+errs.Quote(bad.Key)+": "+bad.Error())
	}
	return strings.Join(texts, "; ")
}

// Unwrap gives the reasons.
func (e badValuesError) Unwrap() []error {
	out := make([]error, 0, len(e))
	for _, bad := range e {
		out = append(out, bad)
	}
	return out
}

// listBad returns what err, the error of decoding a value, consists of.
func listBad(err error) badValuesError {
	if list, ok := errors.AsType[badValuesError](err); ok {
		return list
	}
	if bad, ok := errors.AsType[*BadValueError](err); ok {
		return badValuesError{bad}
	}
	return nil
}

// PanicError is a panic of a function, or of a method of a value's type, that this package has called.
type PanicError struct {
	Value any    // what it panicked with
	Stack []byte // where
}

// Error tells the value.
func (e *PanicError) Error() string { return "panic: " + fmt.Sprint(e.Value) }

// Unwrap gives the value, where it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// opError is the error of an operation that provably changed nothing.
func opError(op, key string, err error) error {
	return &errs.Error{Pkg: "config", Op: op, Key: key, Unchanged: true, Err: err}
}

// kvError is the error of an operation that kv has carried out: it knows whether anything was changed.
func kvError(op, key string, err error) error {
	return &errs.Error{Pkg: "config", Op: op, Key: key, Unchanged: errs.Unchanged(err), Err: reason(err)}
}

// reason is err without the words of another package for its call.
func reason(err error) error {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e.Err
	}
	return err
}

// invalid is a refusal of arguments.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errs.Invalid}, args...)...)
}

// decodeError is why bytes are no value of a type, in words that do not quote them.
type decodeError struct {
	why   string
	cause error // may be nil
}

// Error says what is wrong.
func (e *decodeError) Error() string { return kv.ErrDecode.Error() + ": " + e.why }

// Unwrap gives kv.ErrDecode and, where there is one, the decoder's error.
func (e *decodeError) Unwrap() []error {
	if e.cause == nil {
		return []error{kv.ErrDecode}
	}
	return []error{kv.ErrDecode, e.cause}
}

// panicError is the panic of a decoder without its text, which may quote the value, unless it is the runtime's.
func panicError(panicked error) error {
	why := "its decoder panicked"
	if e, ok := errors.AsType[runtime.Error](panicked); ok {
		why += ": " + e.Error()
	}
	return &decodeError{why: why, cause: panicked}
}

// decoderError is a decoder's error without its text, which may quote the value.
func decoderError(what string, err error) error {
	return &decodeError{why: what + ": " + strict.Describe(err), cause: err}
}
