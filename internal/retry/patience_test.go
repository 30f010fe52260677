package retry_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

func TestAHungAttemptIsCutShortWhereThereWillBeAnother(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		call     retry.Call
		deadline time.Duration
		policy   retry.Policy
		want     []time.Duration // that the attempts are allowed, 0 for all that is left
	}{
		"a read with much time":                     {read, time.Minute, retry.Policy{}, []time.Duration{2 * time.Second, 2 * time.Second, 0}},
		"a read gets a third of its time":           {read, 3 * time.Second, retry.Policy{}, []time.Duration{time.Second, 0, 0}},
		"a read gets a quarter of a second":         {read, 300 * time.Millisecond, retry.Policy{}, []time.Duration{250 * time.Millisecond, 0}},
		"a read with less time is not cut":          {read, 250 * time.Millisecond, retry.Policy{}, []time.Duration{0}},
		"a read with one attempt is not cut":        {read, time.Minute, retry.Policy{MaxAttempts: 1}, []time.Duration{0}},
		"a write without a guard is never cut":      {unguarded, time.Minute, retry.Policy{}, []time.Duration{0}},
		"a guarded write goes on until the end":     {guarded, 9 * time.Second, retry.Policy{}, []time.Duration{2 * time.Second, 2 * time.Second}},
		"a guarded write with one attempt does not": {guarded, time.Minute, retry.Policy{MaxAttempts: 1}, []time.Duration{0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tt.policy.BaseDelay, tt.policy.MaxDelay = time.Microsecond, time.Microsecond
				a, start := new(attempts), time.Now()
				err := retry.New(retry.Config{Policy: tt.policy}).Do(within(t, tt.deadline), tt.call, a.note(hang))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				assert.Equal(t, tt.deadline, time.Since(start))
				for i, want := range tt.want {
					if i == 1 && name == "a read gets a third of its time" {
						want = (tt.deadline - a.began[1]) / 2
					}
					if want == 0 {
						want = tt.deadline - a.began[i]
					}
					assert.Equal(t, want, a.allowed[i], "attempt %d", i+1)
				}
				if tt.call.Read || !tt.call.Guarded {
					assert.Equal(t, len(tt.want), a.n())
				}
			})
		})
	}
}

func TestAnAttemptIsNotCutShortWithoutTheBudgetForAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := new(attempts)
		err := drained(t).Do(within(t, time.Minute), read, a.note(hang))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, []time.Duration{time.Minute}, a.allowed)
	})
}

func TestTheRepeatsOfAGuardedWriteAreCutShortWhateverTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, e := new(attempts), drained(t)
		require.NoError(t, e.Do(within(t, time.Minute), guarded, a.note(func(ctx context.Context, n int) error {
			switch n {
			case 1:
				return errLost
			case 2, 3:
				return hang(ctx, n)
			}
			return nil
		})))
		assert.Equal(t, time.Minute, a.allowed[0])
		assert.Equal(t, 2*time.Second, a.allowed[1])
		assert.Equal(t, 2*time.Second, a.allowed[2])
	})
}

func TestAPatientCallIsBoundedByItsAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		patient := read
		patient.Patient = true
		a := new(attempts)
		err := retry.New(retry.Config{ReadTimeout: 7 * time.Second}).Do(t.Context(), patient, a.note(hang))
		require.ErrorIs(t, err, errs.Unavailable)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, []time.Duration{2 * time.Second, 2 * time.Second, 7 * time.Second}, a.allowed)

		a = new(attempts)
		err = drained(t).Do(t.Context(), patient, a.note(hang))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, []time.Duration{5 * time.Second}, a.allowed)

		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, stop)
		err = retry.New(retry.Config{}).Do(ctx, patient, new(attempts).note(hang))
		require.ErrorIs(t, err, context.Canceled)
	})
}

func raw(c retry.Call) retry.Call {
	c.Raw = true
	return c
}

func TestARawCallWithoutADeadlineIsNotBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := new(attempts)
		require.NoError(t, retry.New(retry.Config{}).Do(t.Context(), raw(unguarded), a.note(slow(time.Hour, nil))))
		assert.Equal(t, []time.Duration{0}, a.allowed)
		a = new(attempts)
		require.NoError(t, retry.New(retry.Config{}).Do(t.Context(), raw(read), a.note(slow(time.Hour, nil))))
		assert.Equal(t, 3, a.n())
		assert.Equal(t, 5*time.Second/3, a.allowed[0], "there will be another")
		assert.Zero(t, a.allowed[2], "there will not")
	})
}

func TestTheRepeatsOfARawCallEndWithTheDefaultTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			call retry.Call
			err  error
			want time.Duration
		}{
			{raw(read), errNoLeader, 5 * time.Second},
			{raw(unguarded), errNoLeader, 10 * time.Second},
			{raw(guarded), errLost, 10 * time.Second},
		} {
			start, a := time.Now(), new(attempts)
			err := retry.New(retry.Config{}).Do(t.Context(), tt.call, a.note(failing(tt.err, always)))
			assert.Equal(t, tt.err, err, "the very error of the last attempt")
			assert.GreaterOrEqual(t, time.Since(start), tt.want)
			assert.Less(t, time.Since(start), tt.want+2*time.Second)
			assert.Greater(t, a.n(), 4)

			start = time.Now()
			err = retry.New(retry.Config{}).Do(within(t, time.Minute), tt.call, new(attempts).note(failing(tt.err, always)))
			assert.Equal(t, context.DeadlineExceeded, err)
			assert.Equal(t, time.Minute, time.Since(start), "the deadline of the caller holds")
		}
	})
}

func TestARawCallIsNotRefusedInTheWordsOfTheEngine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		word := context.Canceled
		ended, stop := context.WithCancel(t.Context())
		stop()
		closed := retry.New(retry.Config{Client: clientv3.NewCtxClient(ended)})
		for name, do := range map[string]func(f retry.Attempt) error{
			"no context":           func(f retry.Attempt) error { return retry.New(retry.Config{}).Do(nil, raw(read), f) }, //nolint:staticcheck // this is the point
			"a context that ended": func(f retry.Attempt) error { return retry.New(retry.Config{}).Do(ended, raw(read), f) },
			"a closed client":      func(f retry.Attempt) error { return closed.Do(t.Context(), raw(read), f) },
		} {
			n := 0
			err := do(func(context.Context, bool) error {
				n++
				return word
			})
			assert.Equal(t, word, err, name)
			assert.Equal(t, 1, n, name)
		}
		e := retry.New(retry.Config{})
		assert.Equal(t, errLost, e.Do(t.Context(), raw(unguarded), new(attempts).note(failing(errLost, always))))
		assert.EqualValues(t, 1, e.Stats().Unknown)
	})
}

func TestAPolicyIsCheckedAndCompleted(t *testing.T) {
	t.Parallel()
	assert.Equal(t, retry.Policy{MaxAttempts: 3, BaseDelay: 100 * time.Millisecond, MaxDelay: 2 * time.Second}, retry.Policy{}.WithDefaults())
	assert.Equal(t, time.Minute, retry.Policy{BaseDelay: time.Minute}.WithDefaults().MaxDelay)
	full := retry.Policy{MaxAttempts: 7, BaseDelay: time.Second, MaxDelay: time.Minute}
	assert.Equal(t, full, full.WithDefaults())
	require.NoError(t, full.Validate())
	require.NoError(t, retry.Policy{}.Validate())
	for name, p := range map[string]retry.Policy{
		"fewer than no attempts":    {MaxAttempts: -1},
		"a wait below nothing":      {BaseDelay: -1},
		"a last wait below nothing": {MaxDelay: -1},
		"waits that shrink":         {BaseDelay: time.Second, MaxDelay: time.Millisecond},
	} {
		assert.ErrorIs(t, p.Validate(), errs.Invalid, name)
	}
}

func TestABudgetThatNobodyMadeIsEmpty(t *testing.T) {
	t.Parallel()
	var b retry.Budget
	assert.False(t, b.Take())
	for range 10 {
		b.Call()
	}
	full := retry.NewBudget()
	full.Refund() // no more than full
	for range reserve {
		assert.True(t, full.Take())
	}
	assert.False(t, full.Take())
	full.Refund()
	assert.True(t, full.Take())
}
