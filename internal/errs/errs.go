// Package errs declares the conditions that all packages of etcdkit share, and the error type that
// carries them.
//
// The packages re-export the values under their own names: kv.ErrUnavailable is errs.Unavailable. A
// single errors.Is therefore works for errors of every package.
package errs

import (
	"errors"
	"strconv"
	"strings"
)

// The shared conditions, for use with errors.Is.
var (
	// Invalid means that the arguments were rejected before anything was sent.
	Invalid = errors.New("invalid argument")
	// TooLarge means that a limit on size or number was exceeded. It also matches Invalid.
	TooLarge error = &subCondition{text: "too large", parent: Invalid}
	// Unavailable means that etcd, or a quorum of it, did not respond or could not be reached.
	Unavailable = errors.New("etcd unavailable")
	// Unauthenticated means that etcd did not accept the user, the password or the token.
	Unauthenticated = errors.New("unauthenticated")
	// Permission means that the authenticated user lacks the permission.
	Permission = errors.New("permission denied")
	// Compacted means that the requested history was compacted.
	Compacted = errors.New("history compacted")
	// UnknownOutcome means that a write may have been applied, or may still be.
	UnknownOutcome = errors.New("outcome unknown")
	// Closed means that the client, or the part of it that was called, is closed.
	Closed = errors.New("closed")
	// LeaseNotFound means that the lease does not exist, or no longer exists.
	LeaseNotFound = errors.New("lease not found")
	// HeldHere means that this process already has the key.
	HeldHere = errors.New("this process has it already")
)

// ClosedError returns an error that matches Closed and says what is closed, such as "registry
// closed".
func ClosedError(what string) error { return &subCondition{text: what + " closed", parent: Closed} }

// subCondition is a special case of another condition. errors.Is matches both.
type subCondition struct {
	text   string
	parent error
}

func (e *subCondition) Error() string { return e.text }

// Unwrap returns the parent condition.
func (e *subCondition) Unwrap() error { return e.parent }

// Error is the error of an operation. Its text is "pkg: op "key": cause".
type Error struct {
	Pkg string // the package that was called
	Op  string // the operation, in lower case
	Key string // the whole key or name; "" if the operation has none

	// NotApplied means that the operation provably changed nothing and will not do so later.
	NotApplied bool

	// Err is the cause. It matches the conditions above.
	Err error
}

// Error returns "pkg: op "key": cause". Without a Key it returns "pkg: op: cause".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Pkg)
	b.WriteString(": ")
	b.WriteString(e.Op)
	if e.Key != "" {
		b.WriteByte(' ')
		b.WriteString(Quote(e.Key))
	}
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// maxQuoted is how many bytes of a key an error or a log line shows.
const maxQuoted = 128

// Quote returns the key in quotes, shortened if it is long.
func Quote(key string) string {
	shown, rest := short(key)
	return strconv.Quote(shown) + rest
}

// Short returns the key, shortened if it is long, for a log record, whose handler quotes it.
func Short(key string) string {
	shown, rest := short(key)
	return shown + rest
}

func short(key string) (shown, rest string) {
	if len(key) <= maxQuoted {
		return key, ""
	}
	return key[:maxQuoted], "... (" + strconv.Itoa(len(key)) + " bytes)"
}

// NotApplied reports whether err says that the operation provably changed nothing. It returns false
// if err matches UnknownOutcome.
func NotApplied(err error) bool {
	if err == nil {
		return false
	}
	if errors.Is(err, UnknownOutcome) {
		return false
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.NotApplied
	}
	return errors.Is(err, Invalid)
}

// Cause returns err without the package, operation and key that the first [Error] in its chain adds
// to it, for a caller that adds its own. It returns err if there is none.
func Cause(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Err
	}
	return err
}
