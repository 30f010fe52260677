package watchstream

import "errors"

// Errors that end a watch.
var (
	ErrEnded      = errors.New("the stream ended")
	ErrNoResponse = errors.New("no response")
	// ErrMoved ends a watch although its stream works, so that the caller opens another one: the
	// stream was retired, or an isolated watch has turned out not to be the cause of a failure.
	ErrMoved = errors.New("the watch moves to another stream")
)

// RefusedError is an error that etcd has sent instead of the confirmation of a watch.
type RefusedError struct{ Err error }

// Error returns the text of the error that etcd has sent.
func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap returns the error that etcd has sent.
func (e *RefusedError) Unwrap() error { return e.Err }

// CompactionError means that etcd has compacted the history that the watch needs.
type CompactionError struct{ Oldest int64 }

// Error returns "compacted".
func (e *CompactionError) Error() string { return "compacted" }

// isRefusal reports whether err is the server's response to the creation of a watch.
func isRefusal(err error) bool {
	_, refused := errors.AsType[*RefusedError](err)
	_, compacted := errors.AsType[*CompactionError](err)
	return refused || compacted
}
