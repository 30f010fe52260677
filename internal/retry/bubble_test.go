package retry_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/retry"
)

var (
	read       = retry.Call{Pkg: "kv", Op: "get", Key: "k", Read: true}
	write      = retry.Call{Pkg: "kv", Op: "put", Key: "k"}
	atMostOnce = retry.Call{Pkg: "kv", Op: "replace", Key: "k", AtMostOnce: true}

	errLost       = status.Error(codes.Unavailable, "error reading from server: EOF")
	errTimeout    = rpctypes.Error(rpctypes.ErrGRPCTimeout)
	errNoLeader   = rpctypes.Error(rpctypes.ErrGRPCNoLeader)
	errOverloaded = rpctypes.Error(rpctypes.ErrGRPCRequestTooManyRequests)
	errToken      = rpctypes.Error(rpctypes.ErrGRPCInvalidAuthToken)
)

// attempt is one attempt of a call.
type attempt = func(ctx context.Context, repeated bool) error

// attempts stands in for the server and records the attempts that it receives.
type attempts struct {
	began, ended []time.Duration // since the first one
	allowed      []time.Duration // by the context of the attempt, 0: no limit
	repeated     []bool
	start        time.Time
}

// note returns an attempt that calls respond with the number of the attempt, starting at 1.
func (a *attempts) note(respond func(ctx context.Context, n int) error) attempt {
	return func(ctx context.Context, repeated bool) error {
		now := time.Now()
		if a.start.IsZero() {
			a.start = now
		}
		a.began = append(a.began, now.Sub(a.start))
		a.repeated = append(a.repeated, repeated)
		var allowed time.Duration
		if d, ok := ctx.Deadline(); ok {
			allowed = d.Sub(now)
		}
		a.allowed = append(a.allowed, allowed)
		err := respond(ctx, len(a.began))
		a.ended = append(a.ended, time.Since(a.start))
		return err
	}
}

func (a *attempts) n() int { return len(a.began) }

// waits are the times between the end of an attempt and the next.
func (a *attempts) waits() []time.Duration {
	var out []time.Duration
	for i := 1; i < len(a.began); i++ {
		out = append(out, a.began[i]-a.ended[i-1])
	}
	return out
}

// failing responds with err for the first n attempts.
func failing(err error, n int) func(context.Context, int) error {
	return func(_ context.Context, i int) error {
		if i <= n {
			return err
		}
		return nil
	}
}

const always = 1 << 30

// hang does not respond.
func hang(ctx context.Context, _ int) error {
	<-ctx.Done()
	return ctx.Err()
}

// slow responds with err after d.
func slow(d time.Duration, err error) func(context.Context, int) error {
	return func(ctx context.Context, _ int) error {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return err
		}
	}
}

// within is a context that ends after d.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), d)
	t.Cleanup(stop)
	return ctx
}

// drained is an engine without a budget.
func drained(t *testing.T) *retry.Engine {
	t.Helper()
	e := retry.New(retry.Config{})
	for before := uint64(0); ; before = e.Stats().Retries {
		require.Error(t, e.Do(t.Context(), read, func(context.Context, bool) error { return errTimeout }))
		if e.Stats().Retries == before {
			return e
		}
	}
}
