package etcdkit_test

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

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/internal/etcdtest"
)

// ask asks a readiness handler.
func ask(ctx context.Context, h http.Handler) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/ready", http.NoBody))
	return w
}

func TestReadyWhenEtcdAnswers(t *testing.T) {
	t.Parallel()
	c := open(t, etcdkit.Config{Endpoints: etcdtest.Endpoints()})
	w := ask(t.Context(), c.ReadyHandler())
	assert.Equal(t, http.StatusOK, w.Code)
	assert.JSONEq(t, `{"ready":true}`, w.Body.String())
	assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
}

func TestAFloodOfProbesIsOneCheckAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var checks atomic.Int32
		h := etcdkit.NewReadiness(func(ctx context.Context) error {
			checks.Add(1)
			deadline, ok := ctx.Deadline()
			assert.True(t, ok)
			assert.Equal(t, 2*time.Second, time.Until(deadline))
			time.Sleep(100 * time.Millisecond)
			return nil
		})
		flood := func() {
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() { assert.Equal(t, http.StatusOK, ask(t.Context(), h).Code) })
			}
			wg.Wait()
		}
		flood()
		assert.EqualValues(t, 1, checks.Load())
		flood()
		assert.EqualValues(t, 1, checks.Load(), "a fresh result is used again")
		time.Sleep(time.Second)
		flood()
		assert.EqualValues(t, 2, checks.Load(), "an old one is not")
	})
}

func TestAProbeThatGivesUpDoesNotSpoilTheCheckOfOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := etcdkit.NewReadiness(func(ctx context.Context) error {
			time.Sleep(time.Second)
			return ctx.Err()
		})
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { ask(ctx, h) })
		synctest.Wait()
		wg.Go(func() { assert.Equal(t, http.StatusOK, ask(t.Context(), h).Code) })
		impatient, leave := context.WithCancel(t.Context())
		wg.Go(func() { assert.Equal(t, http.StatusServiceUnavailable, ask(impatient, h).Code) })
		synctest.Wait()
		leave()
		stop()
		wg.Wait()
	})
}

func TestACheckThatPanicsIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broken := true
		h := etcdkit.NewReadiness(func(context.Context) error {
			time.Sleep(time.Second)
			if broken {
				panic("a decorated client went wrong")
			}
			return nil
		})
		var wg sync.WaitGroup
		wg.Go(func() { assert.Panics(t, func() { ask(t.Context(), h) }) })
		synctest.Wait()
		wg.Go(func() {
			assert.Equal(t, http.StatusServiceUnavailable, ask(t.Context(), h).Code, "who waits for it is told")
		})
		wg.Wait()
		broken = false
		time.Sleep(time.Second)
		assert.Equal(t, http.StatusOK, ask(t.Context(), h).Code)
	})
}

func TestAClosedClientIsNotReadyFromOneMomentToTheNext(t *testing.T) {
	t.Parallel()
	c, err := etcdkit.Open(t.Context(), etcdkit.Config{Endpoints: etcdtest.Endpoints()})
	require.NoError(t, err)
	h := c.ReadyHandler()
	require.Equal(t, http.StatusOK, ask(t.Context(), h).Code)
	require.NoError(t, c.Close())
	w := ask(t.Context(), h)
	assert.Equal(t, http.StatusServiceUnavailable, w.Code)
	assert.JSONEq(t, `{"ready":false,"reason":"closed"}`, w.Body.String())
}

func TestAProbeLearnsNoDetails(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want string
	}{
		{errors.Join(etcdkit.ErrUnauthenticated, errors.New(planted)), "unauthenticated"},
		{errors.Join(etcdkit.ErrUnavailable, errors.New(planted)), "etcd unavailable"},
		{etcdkit.ErrClosed, "closed"},
		{errors.New(planted), "etcd does not answer"},
	} {
		w := ask(t.Context(), etcdkit.NewReadiness(func(context.Context) error { return tt.err }))
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		assert.JSONEq(t, `{"ready":false,"reason":"`+tt.want+`"}`, w.Body.String())
	}
}
