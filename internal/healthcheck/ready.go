package healthcheck

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/etcdkit/etcdkit/internal/errs"
)

const (
	readyTimeout = 2 * time.Second        // of one check
	maxReadyAge  = 500 * time.Millisecond // how long its result is reused
)

// readyHandler shares checks between requests.
type readyHandler struct {
	check    func(ctx context.Context) error
	isClosed func() bool

	mu        sync.Mutex
	err       error // of the last check
	checkedAt time.Time
	running   chan struct{} // closed when the current check has ended; nil if there is none
}

// NewReadyHandler returns a handler for readiness probes. It responds with 200 if check returns nil
// within 2 s, and with 503 otherwise. If isClosed returns true, it responds with 503 at once. The
// body contains no addresses and no users.
//
// Only one check runs at a time, and its result is reused for 500 ms, whatever the number of
// probes.
func NewReadyHandler(check func(ctx context.Context) error, isClosed func() bool) http.Handler {
	return &readyHandler{check: check, isClosed: isClosed}
}

// readyBody is the body of a response.
type readyBody struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitzero"`
}

// ServeHTTP responds to one readiness probe.
func (h *readyHandler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	err := h.result(req.Context())
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
func (h *readyHandler) result(ctx context.Context) error {
	if h.isClosed() {
		return errs.Closed
	}
	h.mu.Lock()
	if !h.checkedAt.IsZero() && time.Since(h.checkedAt) < maxReadyAge {
		defer h.mu.Unlock()
		return h.err
	}
	running := h.running
	if running == nil {
		h.running = make(chan struct{})
		h.mu.Unlock()
		return h.run(ctx)
	}
	h.mu.Unlock()
	select {
	case <-running:
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run makes a check for all waiting requests. It is not canceled with the request that started it,
// and it wakes the others even if the check panics.
func (h *readyHandler) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
	defer cancel()
	err := errors.New("the check did not finish")
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.err, h.checkedAt = err, time.Now()
		close(h.running)
		h.running = nil
	}()
	err = h.check(ctx)
	return err
}

// publicReason returns a text for err that reveals no addresses or users.
func publicReason(err error) string {
	for _, known := range []error{errs.Closed, errs.Unauthenticated, errs.Unavailable} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "etcd does not answer"
}
