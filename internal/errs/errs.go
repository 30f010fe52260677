// Package errs declares, once, the conditions that all packages of etcdkit share, and the error that carries them.
//
// The packages re-export the values under their own names (kv.ErrUnavailable is errs.Unavailable), so that one
// errors.Is works whichever package an error came from.
package errs

import (
	"errors"
	"strconv"
	"strings"
)

// The shared conditions. An error of etcdkit matches the conditions that it met with errors.Is.
var (
	// Invalid means that the arguments were refused before anything was sent.
	Invalid = errors.New("invalid argument")
	// TooLarge is the special case of Invalid in which a limit on size or number was passed.
	TooLarge error = &narrower{text: "too large", wider: Invalid}
	// Unavailable means that etcd, or a quorum of it, did not answer or could not be reached.
	Unavailable = errors.New("etcd unavailable")
	// Unauthenticated means that etcd did not accept the user, the password or the token.
	Unauthenticated = errors.New("unauthenticated")
	// Permission means that the authenticated user may not do this.
	Permission = errors.New("permission denied")
	// Compacted means that the history asked for is gone.
	Compacted = errors.New("history compacted")
	// UnknownOutcome means that a write may or may not have been applied, or may yet be.
	UnknownOutcome = errors.New("outcome unknown")
	// Closed means that the client, or the part of it that was called, is closed.
	Closed = errors.New("closed")
	// LeaseNotFound means that the lease named does not exist, or exists no more.
	LeaseNotFound = errors.New("lease not found")
	// HeldHere means that this process has the key already.
	HeldHere = errors.New("this process has it already")
)

// ClosedError returns an error that says what is closed, such as "registry closed". It matches
// Closed.
func ClosedError(what string) error { return &narrower{text: what + " closed", wider: Closed} }

// narrower is a condition that is a case of a wider one: errors.Is matches both.
type narrower struct {
	text  string
	wider error
}

func (e *narrower) Error() string { return e.text }

// Unwrap makes the narrower condition match the wider one.
func (e *narrower) Unwrap() error { return e.wider }

// Error is what went wrong with one operation. Its text is "pkg: op "key": cause".
type Error struct {
	Pkg string // the package, as the caller knows it
	Op  string // the operation, in lower case
	Key string // what it was about; "" when there is no one thing

	// Unchanged says that the operation provably changed nothing and will not do so later.
	Unchanged bool

	// Err says why. It matches the conditions above.
	Err error
}

// Error is "pkg: op "key": cause".
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

// Unwrap gives the reason.
func (e *Error) Unwrap() error { return e.Err }

// maxQuoted bounds how much of a key an error or a log line shows.
const maxQuoted = 128

// Quote prints a key for people: quoted, and cut short when it is long.
func Quote(key string) string {
	shown, rest := short(key)
	return strconv.Quote(shown) + rest
}

// Short prints a key for a log, whose handler quotes it: cut short when it is long.
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

// Unchanged reports whether err says that the operation provably changed nothing.
func Unchanged(err error) bool {
	if err == nil {
		return false
	}
	if errors.Is(err, UnknownOutcome) {
		return false
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Unchanged
	}
	return errors.Is(err, Invalid)
}
