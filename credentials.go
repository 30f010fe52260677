package etcdkit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// sourceEndsWithin is how long Close waits for a credentials function whose context has ended.
const sourceEndsWithin = time.Second

// errBrokenOff means that a login neither succeeded nor failed.
var errBrokenOff = errors.New("login broken off")

// ask calls the source for user and password. The function is the user's: it may panic or ignore
// ctx, and neither must block other calls. Only one call runs at a time, so that a function that
// hangs leaks one goroutine and not one per attempt.
func (l *login) ask(ctx context.Context) (user, password string, err error) {
	type answer struct {
		user, password string
		err            error
	}
	select {
	case l.asking <- struct{}{}:
	case <-ctx.Done():
		return "", "", ctx.Err()
	}
	got := make(chan answer, 1)
	go func() { // ends with source; see wait
		var a answer
		defer func() {
			if cause := recover(); cause != nil {
				a = answer{err: panicked(cause)}
			}
			got <- a
			<-l.asking
		}()
		a.user, a.password, a.err = l.source(ctx)
	}()
	select {
	case a := <-got:
		return a.user, a.password, a.err
	case <-ctx.Done():
		return "", "", ctx.Err()
	}
}

// panicked returns the error for a credentials function that panicked. It includes only the text of
// runtime errors, because any other value could contain the password.
func panicked(cause any) error {
	if err, ok := cause.(runtime.Error); ok {
		return fmt.Errorf("the function panicked: %w", err)
	}
	return fmt.Errorf("the function panicked with a %T", cause)
}

// wait returns when the source is idle or after sourceEndsWithin.
func (l *login) wait() {
	if l.asking == nil {
		return
	}
	timer := time.NewTimer(sourceEndsWithin)
	defer timer.Stop()
	select {
	case l.asking <- struct{}{}:
		<-l.asking
	case <-timer.C:
	}
}

// credentialsError means that the credentials function failed or returned an empty user or
// password.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "credentials: " + e.err.Error() }

// Unwrap returns ErrUnauthenticated and the cause.
func (e *credentialsError) Unwrap() []error { return []error{errs.Unauthenticated, e.err} }

// GRPCStatus returns the status that client/v3 checks.
func (e *credentialsError) GRPCStatus() *status.Status {
	return status.New(codes.Unauthenticated, e.Error())
}
