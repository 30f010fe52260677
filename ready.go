package etcdkit

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"
)

const (
	readyWithin = 2 * time.Second        // for one check
	readyFor    = 500 * time.Millisecond // how long its result is reused
)

// ReadyHandler returns a handler for readiness probes. It responds with 200 if a linearizable read
// succeeds within 2 s, and with 503 otherwise and after Close. The body, such as
// {"ready":false,"reason":"etcd unavailable"}, contains no addresses and no users.
//
// Only one check runs at a time, and its result is reused for 500 ms, whatever the number of
// probes.
func (c *Client) ReadyHandler() http.Handler {
	return &readiness{check: c.ask, gone: c.isClosed}
}

// readiness shares checks between requests.
type readiness struct {
	check func(ctx context.Context) error
	gone  func() bool // reports whether the client is closed, which overrides earlier results

	mu      sync.Mutex
	last    error
	at      time.Time
	running chan struct{} // closed when the current check has ended; nil if there is none
}

// readyBody is the body of a response.
type readyBody struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitzero"`
}

// ServeHTTP responds to one readiness probe.
func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	err := r.result(req.Context())
	body, code := readyBody{Ready: err == nil}, http.StatusOK
	if err != nil {
		body.Reason, code = publicReason(err), http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // fails only if the requester has disconnected
}

// result returns the last result if it is recent, and else that of a check.
func (r *readiness) result(ctx context.Context) error {
	if r.gone() {
		return ErrClosed
	}
	r.mu.Lock()
	if !r.at.IsZero() && time.Since(r.at) < readyFor {
		defer r.mu.Unlock()
		return r.last
	}
	running := r.running
	if running == nil {
		r.running = make(chan struct{})
		r.mu.Unlock()
		return r.run(ctx)
	}
	r.mu.Unlock()
	select {
	case <-running:
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.last
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run makes a check for all waiting requests. It is not canceled with the request that started it,
// and it wakes the others even if the check panics.
func (r *readiness) run(ctx context.Context) error {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), readyWithin)
	defer stop()
	err := errors.New("the check broke off")
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.last, r.at = err, time.Now()
		close(r.running)
		r.running = nil
	}()
	err = r.check(ctx)
	return err
}

// publicReason returns a text for err that reveals no addresses or users.
func publicReason(err error) string {
	for _, known := range []error{ErrClosed, ErrUnauthenticated, ErrUnavailable} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "etcd does not answer"
}
