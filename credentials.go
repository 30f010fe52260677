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

// sourceEndsWithin is how long Close waits for a credentials function that was told to stop.
const sourceEndsWithin = time.Second

// errBrokenOff says of a login that it neither succeeded nor failed.
var errBrokenOff = errors.New("login broken off")

// ask asks the source for user and password. The function is not ours: it may panic, or go on when ctx has ended, and
// neither must keep calls from ending when they should. It is asked by one at a time, so that one that hangs leaves one
// goroutine behind and not one for each attempt.
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

// panicked is the error of a credentials function that panics. Only the runtime's own words are shown: any other value
// could hold the password.
func panicked(cause any) error {
	if err, ok := cause.(runtime.Error); ok {
		return fmt.Errorf("the function panicked: %w", err)
	}
	return fmt.Errorf("the function panicked with a %T", cause)
}

// wait returns when the source is not being asked any more, or will not be told.
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

// credentialsError says that there was nothing to log in with.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "credentials: " + e.err.Error() }

// Unwrap gives the condition and the reason.
func (e *credentialsError) Unwrap() []error { return []error{errs.Unauthenticated, e.err} }

// GRPCStatus is what client/v3 looks at.
func (e *credentialsError) GRPCStatus() *status.Status {
	return status.New(codes.Unauthenticated, e.Error())
}
