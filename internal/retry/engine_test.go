package retry_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/etcdtest/scopetest"
	"github.com/etcdkit/etcdkit/internal/retry"
	"github.com/etcdkit/etcdkit/internal/scope"
)

func TestEngine_AddsDefaultDeadline(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		call retry.Call
		want time.Duration
		text string
	}{
		"a read":  {read, 5 * time.Second, "5s"},
		"a write": {write, 10 * time.Second, "10s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := retry.New(retry.Config{}).Do(t.Context(), tt.call, new(attempts).note(hang))
				assert.Equal(t, tt.want, time.Since(start))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.ErrorIs(t, err, errs.Unavailable)
				assert.ErrorContains(t, err, "default timeout "+tt.text)
			})
		})
	}
}

func TestEngine_DefaultDeadlineIsConfigurable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := retry.New(retry.Config{ReadTimeout: time.Minute, WriteTimeout: time.Hour})
		start := time.Now()
		require.Error(t, e.Do(t.Context(), read, new(attempts).note(hang)))
		assert.Equal(t, time.Minute, time.Since(start))
		start = time.Now()
		require.Error(t, e.Do(t.Context(), write, new(attempts).note(hang)))
		assert.Equal(t, time.Hour, time.Since(start))
	})
}

func TestEngine_KeepsDeadlineOfCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := retry.New(retry.Config{}).Do(within(t, time.Hour), write, new(attempts).note(hang))
		assert.Equal(t, time.Hour, time.Since(start))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.NotContains(t, err.Error(), "default timeout")
	})
}

func TestEngine_ReadHasThreeAttemptsWithFullJitter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var first, second []time.Duration
		for range 300 {
			a := new(attempts)
			err := retry.New(retry.Config{}).Do(t.Context(), read, a.note(failing(errLost, always)))
			require.ErrorIs(t, err, errs.Unavailable)
			require.ErrorIs(t, err, errLost)
			require.NotErrorIs(t, err, errs.UnknownOutcome)
			require.Equal(t, 3, a.n())
			assert.Equal(t, []bool{false, false, false}, a.repeated)
			first, second = append(first, a.waits()[0]), append(second, a.waits()[1])
		}
		for _, tt := range []struct {
			got  []time.Duration
			most time.Duration
		}{{first, 100 * time.Millisecond}, {second, 200 * time.Millisecond}} {
			assert.LessOrEqual(t, slices.Max(tt.got), tt.most)
			assert.Greater(t, slices.Max(tt.got), tt.most*9/10, "the jitter is full")
			assert.Less(t, slices.Min(tt.got), tt.most/10, "the jitter is full")
		}
	})
}

func TestEngine_FollowsPolicy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := new(attempts)
		e := retry.New(retry.Config{Policy: retry.Policy{MaxAttempts: 12, BaseDelay: time.Second, MaxDelay: 4 * time.Second}})
		require.Error(t, e.Do(within(t, time.Hour), read, a.note(failing(errLost, always))))
		require.Equal(t, 12, a.n())
		for i, w := range a.waits() {
			assert.LessOrEqual(t, w, min(time.Second<<i, 4*time.Second))
		}
		a = new(attempts)
		e = retry.New(retry.Config{Policy: retry.Policy{MaxAttempts: 1}})
		require.Error(t, e.Do(t.Context(), read, a.note(failing(errLost, always))))
		assert.Equal(t, 1, a.n())
	})
}

func TestEngine_WaitsForLeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, call := range []retry.Call{read, write, atMostOnce} {
			a, e := new(attempts), drained(t)
			require.NoError(t, e.Do(within(t, time.Hour), call, a.note(failing(errNoLeader, 40))), "attempts, budget: it counts as neither")
			assert.Equal(t, 41, a.n())
			for _, w := range a.waits() {
				assert.LessOrEqual(t, w, 2*time.Second)
			}
			start := time.Now()
			err := e.Do(within(t, time.Minute), call, new(attempts).note(failing(errNoLeader, always)))
			assert.Equal(t, time.Minute, time.Since(start))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, rpctypes.ErrNoLeader, "the cause is included")
			assert.True(t, errs.NotApplied(err))
		}
	})
}

func TestEngine_WaitForLeaderIsNoAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := new(attempts)
		err := retry.New(retry.Config{}).Do(within(t, time.Hour), read, a.note(func(_ context.Context, n int) error {
			if n <= 5 {
				return errNoLeader
			}
			return errLost
		}))
		require.ErrorIs(t, err, errs.Unavailable)
		assert.Equal(t, 5+3, a.n())
	})
}

func TestEngine_OverloadedServerUsesBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := new(attempts)
		require.NoError(t, retry.New(retry.Config{}).Do(within(t, time.Hour), write, a.note(failing(errOverloaded, 15))))
		assert.Equal(t, 16, a.n(), "waiting is no attempt")
		a = new(attempts)
		err := retry.New(retry.Config{}).Do(within(t, time.Hour), write, a.note(failing(errOverloaded, always)))
		require.ErrorIs(t, err, errs.Unavailable)
		require.ErrorIs(t, err, rpctypes.ErrTooManyRequests)
		assert.True(t, errs.NotApplied(err))
		assert.Equal(t, reserve+1, a.n())
	})
}

// reserve is what a budget holds at the most, and starts with.
const reserve = 200

func TestEngine_BudgetLimitsRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const calls = 1000
		e := retry.New(retry.Config{})
		for range calls {
			require.Error(t, e.Do(t.Context(), read, new(attempts).note(failing(errTimeout, always))))
		}
		assert.InDelta(t, calls/10+reserve, e.Stats().Retries, 1)
		for range 10_000 {
			require.NoError(t, e.Do(t.Context(), read, new(attempts).note(failing(nil, 0))))
		}
		before := e.Stats().Retries
		for range 500 {
			require.Error(t, e.Do(t.Context(), read, new(attempts).note(failing(errTimeout, always))))
		}
		assert.InDelta(t, 500/10+reserve, e.Stats().Retries-before, 1, "a quiet time saves up no more than the reserve")
	})
}

func TestEngine_RetriesRefusedTokenOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, call := range []retry.Call{read, write, atMostOnce} {
			e, a := drained(t), new(attempts)
			require.NoError(t, e.Do(t.Context(), call, a.note(failing(errToken, 1))), "out of the budget")
			assert.Equal(t, []time.Duration{0}, a.waits())
			a = new(attempts)
			err := e.Do(t.Context(), call, a.note(failing(errToken, always)))
			require.ErrorIs(t, err, errs.Unauthenticated)
			assert.True(t, errs.NotApplied(err))
			assert.Equal(t, 2, a.n())
		}
	})
}

func TestEngine_DoesNotRetryPermanentErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, call := range []retry.Call{read, write, atMostOnce} {
			a := new(attempts)
			err := retry.New(retry.Config{}).Do(t.Context(), call, a.note(failing(rpctypes.ErrPermissionDenied, always)))
			require.ErrorIs(t, err, errs.Permission)
			assert.True(t, errs.NotApplied(err))
			assert.Equal(t, 1, a.n())
		}
	})
}

func TestEngine_DoesNotRetryAmbiguousWrite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, cause := range []error{errLost, context.DeadlineExceeded, rpctypes.ErrTimeout, rpctypes.ErrNoSpace, status.Error(codes.Internal, "RST_STREAM")} {
			a, e := new(attempts), retry.New(retry.Config{})
			err := e.Do(within(t, time.Hour), write, a.note(failing(cause, always)))
			require.ErrorIs(t, err, errs.UnknownOutcome)
			require.ErrorIs(t, err, cause)
			assert.False(t, errs.NotApplied(err))
			assert.EqualError(t, err, `kv: put "k": outcome unknown: etcd unavailable: `+cause.Error())
			assert.Equal(t, 1, a.n())
			assert.Equal(t, retry.Stats{Calls: 1, Unknown: 1}, e.Stats())
		}
	})
}

func TestEngine_RetriesUnsentWrite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// Every attempt passes an observer, and no observer sees one.
		a, e := new(attempts), retry.New(retry.Config{Observed: true})
		require.NoError(t, e.Do(t.Context(), write, a.note(failing(errLost, 2))))
		assert.Equal(t, []bool{false, false, false}, a.repeated)
		err := e.Do(t.Context(), write, new(attempts).note(failing(errLost, always)))
		require.ErrorIs(t, err, errs.Unavailable)
		assert.True(t, errs.NotApplied(err))
		err = e.Do(within(t, time.Second), write, new(attempts).note(hang))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.True(t, errs.NotApplied(err))
		assert.Zero(t, e.Stats().Unknown)
	})
}

func TestEngine_RetriesAtMostOnceWriteUntilKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, e := new(attempts), drained(t)
		require.NoError(t, e.Do(within(t, time.Hour), atMostOnce, a.note(failing(errLost, 12))), "whatever the budget says")
		assert.Equal(t, append([]bool{false}, slices.Repeat([]bool{true}, 12)...), a.repeated)

		start := time.Now()
		err := e.Do(within(t, time.Minute), atMostOnce, new(attempts).note(failing(errLost, always)))
		assert.Equal(t, time.Minute, time.Since(start))
		require.ErrorIs(t, err, errs.UnknownOutcome)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.False(t, errs.NotApplied(err))

		a = new(attempts)
		err = e.Do(within(t, time.Hour), atMostOnce, a.note(func(_ context.Context, n int) error {
			return []error{errLost, errNoLeader, errOverloaded, errToken, rpctypes.ErrPermissionDenied}[n-1]
		}))
		require.ErrorIs(t, err, errs.Permission)
		require.ErrorIs(t, err, errs.UnknownOutcome, "a refusal of the last attempt says nothing about the first")
		assert.Equal(t, 5, a.n())
	})
}

func TestEngine_PersistentCallOutlastsPolicyAndBudget(t *testing.T) {
	t.Parallel()
	persistent := func(c retry.Call) retry.Call { c.Persistent = true; return c }
	for name, tt := range map[string]struct {
		call retry.Call
		err  error
		sent bool // more than one attempt
	}{
		"a read whose connections break":                       {persistent(read), errLost, true},
		"a write that is refused":                              {persistent(write), rpctypes.ErrNotCapable, true},
		"a write that finds the server overloaded":             {persistent(write), errOverloaded, true},
		"a write whose connection breaks":                      {persistent(write), errLost, false},
		"a read that cannot succeed":                           {persistent(read), rpctypes.ErrCompacted, false},
		"an at-most-once write whose connections always break": {persistent(atMostOnce), errLost, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e, a := drained(t), new(attempts)
				start := time.Now()
				err := e.Do(within(t, time.Minute), tt.call, a.note(failing(tt.err, always)))
				require.Error(t, err)
				if !tt.sent {
					assert.Equal(t, 1, a.n())
					return
				}
				assert.Equal(t, time.Minute, time.Since(start))
				assert.Greater(t, a.n(), 30)
				assert.Less(t, a.n(), 500)
			})
		})
	}
}

func TestEngine_DoesNotRetryFullDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := new(attempts)
		err := retry.New(retry.Config{}).Do(t.Context(), atMostOnce, a.note(failing(rpctypes.ErrNoSpace, always)))
		require.ErrorIs(t, err, errs.UnknownOutcome)
		assert.Equal(t, 1, a.n())
	})
}

func TestEngine_ReturnsCauseOfContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("shutting down")
		for name, when := range map[string]func(stop func()){
			"before the call":   func(stop func()) { stop() },
			"during the wait":   func(stop func()) { time.AfterFunc(time.Minute+time.Millisecond, stop) },
			"during an attempt": func(stop func()) { time.AfterFunc(time.Second, stop) },
		} {
			ctx, stop := context.WithCancelCause(t.Context())
			when(func() { stop(why) })
			start := time.Now()
			e := retry.New(retry.Config{Policy: retry.Policy{BaseDelay: 24 * time.Hour}, ReadTimeout: 48 * time.Hour})
			err := e.Do(ctx, retry.Call{Read: true}, new(attempts).note(slow(time.Minute, errNoLeader)))
			require.ErrorIs(t, err, context.Canceled, name)
			require.ErrorIs(t, err, why, name)
			require.NotErrorIs(t, err, errs.Unavailable, name)
			assert.LessOrEqual(t, time.Since(start), 48*time.Hour)
		}
		ctx, stop := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer stop()
		err := retry.New(retry.Config{}).Do(ctx, write, new(attempts).note(hang))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, why)
		require.NoError(t, retry.ContextError(t.Context()))
	})
}

func TestEngine_ClosedClientFailsImmediately(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, call := range []retry.Call{read, write, atMostOnce} {
			life, end := context.WithCancel(t.Context())
			e := retry.New(retry.Config{Client: clientv3.NewCtxClient(life), Policy: retry.Policy{BaseDelay: time.Hour, MaxDelay: time.Hour}})
			time.AfterFunc(time.Millisecond, end)
			start := time.Now()
			a := new(attempts)
			err := e.Do(within(t, 24*time.Hour), call, a.note(failing(errNoLeader, always)))
			require.ErrorIs(t, err, errs.Closed)
			assert.Equal(t, time.Millisecond, time.Since(start), "while it waits")
			assert.Equal(t, 1, a.n())
			assert.True(t, errs.NotApplied(err))

			a = new(attempts)
			err = e.Do(within(t, time.Hour), call, a.note(failing(nil, 0)))
			require.ErrorIs(t, err, errs.Closed, "before the call")
			assert.Zero(t, a.n())
			assert.True(t, errs.NotApplied(err))
		}
		life, end := context.WithCancel(t.Context())
		e := retry.New(retry.Config{Client: clientv3.NewCtxClient(life)})
		err := e.Do(within(t, time.Hour), write, func(context.Context, bool) error {
			end()
			return status.Error(codes.Canceled, "grpc: the client connection is closing")
		})
		require.ErrorIs(t, err, errs.Closed, "during an attempt")
		require.ErrorIs(t, err, errs.UnknownOutcome)
	})
}

func TestEngine_OnRetrySeesEveryRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type seen struct {
			op  string
			n   int
			err error
		}
		var got []seen
		e := retry.New(retry.Config{Scope: scopetest.New(scope.Hooks{Retry: func(_ context.Context, op scope.Operation, n int, err error) {
			got = append(got, seen{op.Name, n, err})
		}})})
		require.NoError(t, e.Do(within(t, time.Hour), read, new(attempts).note(func(_ context.Context, n int) error {
			return []error{errNoLeader, errLost, nil}[n-1]
		})))
		assert.Equal(t, []seen{{"get", 1, errNoLeader}, {"get", 2, errLost}}, got)
		got = nil
		require.Error(t, e.Do(t.Context(), write, new(attempts).note(failing(errLost, always))))
		assert.Empty(t, got, "nothing was repeated")
	})
}

func TestEngine_StatsCountCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := retry.New(retry.Config{})
		require.NoError(t, e.Do(t.Context(), read, new(attempts).note(failing(errLost, 2))))
		require.Error(t, e.Do(t.Context(), write, new(attempts).note(failing(errLost, 1))))
		ended, stop := context.WithCancel(t.Context())
		stop()
		require.Error(t, e.Do(ended, read, new(attempts).note(failing(nil, 0))))
		assert.Equal(t, retry.Stats{Calls: 2, Retries: 2, Unknown: 1}, e.Stats())
	})
}

func TestEngine_ConcurrentUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := retry.New(retry.Config{Scope: scopetest.New(scope.Hooks{Retry: func(context.Context, scope.Operation, int, error) {}})})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for range 20 {
					_ = e.Do(t.Context(), read, new(attempts).note(failing(errTimeout, 1)))
					_ = e.Stats()
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		assert.EqualValues(t, 1000, e.Stats().Calls)
		assert.InDelta(t, 100+reserve, e.Stats().Retries, 1)
	})
}
