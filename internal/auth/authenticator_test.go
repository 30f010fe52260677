package auth_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/auth"
	"github.com/etcdkit/etcdkit/internal/errs"
)

// secret is a password that no error may contain.
const secret = "pl4nted-s3cret"

var errSealed = errors.New("the vault is sealed")

// newCall returns a call that needs a login. The source must fail, because there is no connection.
func newCall(t *testing.T, source auth.CredentialsFunc) func(ctx context.Context) error {
	t.Helper()
	a := auth.New(t.Context(), source, time.Minute, slog.New(slog.DiscardHandler))
	return func(ctx context.Context) error {
		return a.InterceptUnary(ctx, pb.KV_Put_FullMethodName, nil, nil, nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
				t.Error("a call is sent without a token")
				return nil
			})
	}
}

func TestAuthenticator_CanceledCallDoesNotFailOtherCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var logins int
		call := newCall(t, func(ctx context.Context) (string, string, error) {
			logins++
			if logins > 1 {
				return "", "", errSealed
			}
			<-ctx.Done() // the first login ends with the call that it is made for
			return "", "", ctx.Err()
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { assert.Equal(t, codes.Canceled, status.Code(call(ctx))) })
		synctest.Wait()
		for range 10 {
			wg.Go(func() { assert.ErrorIs(t, call(t.Context()), errSealed, "it makes a login of its own") })
		}
		waiting, cancelWaiting := context.WithCancel(t.Context())
		wg.Go(func() { assert.Equal(t, codes.Canceled, status.Code(call(waiting))) })
		synctest.Wait()
		cancelWaiting()
		synctest.Wait()
		assert.Equal(t, 1, logins)
		cancel()
		wg.Wait()
	})
}

func TestAuthenticator_BoundsEachLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		call := newCall(t, func(ctx context.Context) (string, string, error) {
			<-ctx.Done()
			return "", "", ctx.Err()
		})
		start := time.Now()
		require.ErrorIs(t, call(t.Context()), context.DeadlineExceeded)
		assert.Equal(t, time.Minute, time.Since(start))
	})
}

func TestAuthenticator_PanickingSourceFailsOnlyItsCall(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		cause any
		text  string
	}{
		"text that could be the password": {secret, "the function panicked with a string"},
		"runtime error":                   {nil, "index out of range"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int32
			call := newCall(t, func(context.Context) (string, string, error) {
				if calls.Add(1) > 1 {
					return "", "", errSealed
				}
				if tt.cause == nil {
					return []string{}[calls.Load()], "", nil
				}
				panic(tt.cause)
			})
			err := call(t.Context())
			require.ErrorIs(t, err, errs.Unauthenticated)
			require.ErrorContains(t, err, tt.text)
			assert.NotContains(t, err.Error(), secret)
			require.ErrorIs(t, call(t.Context()), errSealed, "the next call is not blocked")
		})
	}
}

func TestAuthenticator_HangingSourceDoesNotOutlastItsCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var calls atomic.Int32
		call := newCall(t, func(context.Context) (string, string, error) {
			calls.Add(1)
			<-release
			return "", "", errSealed
		})
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			start := time.Now()
			assert.Equal(t, codes.DeadlineExceeded, status.Code(call(ctx)))
			assert.Equal(t, 5*time.Second, time.Since(start))
			cancel()
		}
		assert.EqualValues(t, 1, calls.Load(), "a function that hangs is not called again")
		close(release)
		require.ErrorIs(t, call(t.Context()), errSealed)
	})
}
