package retry_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdkit/etcdkit/internal/retry"
)

func raw(c retry.Call) retry.Call {
	c.Raw = true
	return c
}

func TestEngine_RawCallIsNotBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, call := range []retry.Call{read, write, atMostOnce} {
			a := new(attempts)
			require.NoError(t, retry.New(retry.Config{}).Do(t.Context(), raw(call), a.note(slow(time.Hour, nil))))
			assert.Equal(t, []time.Duration{0}, a.allowed)
		}
	})
}

func TestEngine_RawRetriesEndAfterDefaultTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			call retry.Call
			err  error
			want time.Duration
		}{
			{raw(read), errNoLeader, 5 * time.Second},
			{raw(write), errNoLeader, 10 * time.Second},
			{raw(atMostOnce), errLost, 10 * time.Second},
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

func TestEngine_RawCallReturnsClientErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		word := context.Canceled
		ended, stop := context.WithCancel(t.Context())
		stop()
		closed := retry.New(retry.Config{Client: clientv3.NewCtxClient(ended)})
		for name, do := range map[string]func(f attempt) error{
			"a context that ended": func(f attempt) error { return retry.New(retry.Config{}).Do(ended, raw(read), f) },
			"a closed client":      func(f attempt) error { return closed.Do(t.Context(), raw(read), f) },
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
		assert.Equal(t, errLost, e.Do(t.Context(), raw(write), new(attempts).note(failing(errLost, always))))
		assert.EqualValues(t, 1, e.Stats().Unknown)
	})
}
