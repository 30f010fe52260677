package auth

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/errs"
)

// CredentialsFunc returns the user and password for a login.
type CredentialsFunc func(ctx context.Context) (user, password string, err error)

// closeTimeout is how long Wait waits for a credentials function whose context has ended.
const closeTimeout = time.Second

// fetchCredentials calls the source for user and password. The function is the user's: it may panic
// or ignore ctx, and neither must block other calls. Only one call runs at a time, so that a
// function that hangs leaks one goroutine and not one per attempt.
func (a *Authenticator) fetchCredentials(ctx context.Context) (user, password string, err error) {
	type result struct {
		user, password string
		err            error
	}
	select {
	case a.sem <- struct{}{}:
	case <-ctx.Done():
		return "", "", ctx.Err()
	}
	results := make(chan result, 1)
	go func() { // ends with source; see Wait
		var r result
		defer func() {
			if cause := recover(); cause != nil {
				r = result{err: panicError(cause)}
			}
			results <- r
			<-a.sem
		}()
		r.user, r.password, r.err = a.source(ctx)
	}()
	select {
	case r := <-results:
		return r.user, r.password, r.err
	case <-ctx.Done():
		return "", "", ctx.Err()
	}
}

// panicError returns the error for a credentials function that panicked. It includes only the text
// of runtime errors, because any other value could contain the password.
func panicError(cause any) error {
	if err, ok := cause.(runtime.Error); ok {
		return fmt.Errorf("the function panicked: %w", err)
	}
	return fmt.Errorf("the function panicked with a %T", cause)
}

// Wait returns when the credentials function is idle, or after one second. The context of New must
// have ended.
func (a *Authenticator) Wait() {
	if a.source == nil {
		return
	}
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case a.sem <- struct{}{}:
		<-a.sem
	case <-timer.C:
	}
}

// credentialsError means that the credentials function failed or returned an empty user or
// password.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "credentials: " + e.err.Error() }

// Unwrap returns errs.Unauthenticated and the cause.
func (e *credentialsError) Unwrap() []error { return []error{errs.Unauthenticated, e.err} }

// GRPCStatus returns the status that client/v3 checks.
func (e *credentialsError) GRPCStatus() *status.Status {
	return status.New(codes.Unauthenticated, e.Error())
}
