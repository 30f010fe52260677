package retry_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/retry"
)

func TestPolicy_ValidateAndDefaults(t *testing.T) {
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

// With delays of nothing, waiting for a leader was a busy loop: some 100,000 attempts a second.
func TestPolicy_TinyDelaysDoNotSpin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, p := range []retry.Policy{{BaseDelay: 1}, {BaseDelay: 1, MaxDelay: 1}, {MaxDelay: 1}} {
			a := new(attempts)
			err := retry.New(retry.Config{Policy: p}).Do(within(t, time.Second), read, a.note(failing(errNoLeader, always)))
			require.Error(t, err)
			assert.Less(t, a.n(), 3000, "waits of half a millisecond on average: %+v", p)
		}
	})
}

func TestBudget_NeverExceedsCapacity(t *testing.T) {
	t.Parallel()
	var b retry.Budget
	assert.False(t, b.Withdraw(), "the zero value is empty")
	full := retry.NewBudget(reserve)
	full.Deposit() // no more than full
	for range reserve {
		assert.True(t, full.Withdraw())
	}
	assert.False(t, full.Withdraw())
	for range 11 {
		full.Deposit()
	}
	assert.True(t, full.Withdraw(), "a tenth of the calls")
	assert.False(t, full.Withdraw())
}

// A call that is under way takes nothing out of the budget: only its repeats do.
func TestBudget_CallsInFlightLeaveRetriesForOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := retry.New(retry.Config{})
		for range 2 * reserve {
			go func() { _ = e.Do(t.Context(), read, new(attempts).note(slow(time.Second, nil))) }()
		}
		synctest.Wait()
		a := new(attempts)
		require.NoError(t, e.Do(t.Context(), read, a.note(failing(errTimeout, 1))))
		assert.Equal(t, 2, a.n())
		time.Sleep(time.Second)
		assert.EqualValues(t, 1, e.Stats().Retries)
	})
}

func TestBudget_LostConnectionIsFreeOncePerCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := drained(t)
		for range 600 {
			require.NoError(t, e.Do(t.Context(), read, new(attempts).note(failing(errLost, 1))))
		}
		e = drained(t)
		for _, call := range []retry.Call{read, write} {
			a := new(attempts)
			failure := errLost
			if !call.Read {
				failure = &errs.Error{NotApplied: true, Err: errLost} // it was not sent
			}
			require.ErrorIs(t, e.Do(t.Context(), call, a.note(failing(failure, always))), errLost)
			assert.Equal(t, 2, a.n(), "the second one costs")
		}
		a := new(attempts)
		require.Error(t, e.Do(t.Context(), read, a.note(failing(errTimeout, always))))
		assert.Equal(t, 1, a.n(), "that etcd itself does not manage is not free")
	})
}
