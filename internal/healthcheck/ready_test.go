package healthcheck_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/etcdkit/etcdkit/internal/errs"
	"github.com/etcdkit/etcdkit/internal/healthcheck"
)

// get requests a readiness probe.
func get(ctx context.Context, h http.Handler) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/ready", http.NoBody))
	return w
}

// newReadyHandler returns a handler of a client that is not closed.
func newReadyHandler(check func(ctx context.Context) error) http.Handler {
	return healthcheck.NewReadyHandler(check, func() bool { return false })
}

func TestReadyHandler_SharesChecks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var checks atomic.Int32
		h := newReadyHandler(func(ctx context.Context) error {
			checks.Add(1)
			deadline, ok := ctx.Deadline()
			assert.True(t, ok)
			assert.Equal(t, 2*time.Second, time.Until(deadline))
			time.Sleep(100 * time.Millisecond)
			return nil
		})
		probeMany := func() {
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() { assert.Equal(t, http.StatusOK, get(t.Context(), h).Code) })
			}
			wg.Wait()
		}
		probeMany()
		assert.EqualValues(t, 1, checks.Load())
		probeMany()
		assert.EqualValues(t, 1, checks.Load(), "a recent result is reused")
		time.Sleep(time.Second)
		probeMany()
		assert.EqualValues(t, 2, checks.Load(), "but not after it has expired")
	})
}

func TestReadyHandler_CanceledProbeDoesNotFailOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newReadyHandler(func(ctx context.Context) error {
			time.Sleep(time.Second)
			return ctx.Err()
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { get(ctx, h) })
		synctest.Wait()
		wg.Go(func() { assert.Equal(t, http.StatusOK, get(t.Context(), h).Code) })
		impatient, cancelImpatient := context.WithCancel(t.Context())
		wg.Go(func() { assert.Equal(t, http.StatusServiceUnavailable, get(impatient, h).Code) })
		synctest.Wait()
		cancelImpatient()
		cancel()
		wg.Wait()
	})
}

func TestReadyHandler_PanicEndsTheCheck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broken := true
		h := newReadyHandler(func(context.Context) error {
			time.Sleep(time.Second)
			if broken {
				panic("decorated client")
			}
			return nil
		})
		var wg sync.WaitGroup
		wg.Go(func() { assert.Panics(t, func() { get(t.Context(), h) }) })
		synctest.Wait()
		wg.Go(func() {
			assert.Equal(t, http.StatusServiceUnavailable, get(t.Context(), h).Code, "a waiting probe gets a response")
		})
		wg.Wait()
		broken = false
		time.Sleep(time.Second)
		assert.Equal(t, http.StatusOK, get(t.Context(), h).Code)
	})
}

func TestReadyHandler_RevealsNoDetails(t *testing.T) {
	t.Parallel()
	secret := errors.New("10.0.0.1: user app")
	for _, tt := range []struct {
		err  error
		want string
	}{
		{errors.Join(errs.Unauthenticated, secret), "unauthenticated"},
		{errors.Join(errs.Unavailable, secret), "etcd unavailable"},
		{errs.Closed, "closed"},
		{secret, "etcd does not answer"},
	} {
		w := get(t.Context(), newReadyHandler(func(context.Context) error { return tt.err }))
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		assert.JSONEq(t, `{"ready":false,"reason":"`+tt.want+`"}`, w.Body.String())
	}
}
