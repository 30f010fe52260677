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
	readyWithin = 2 * time.Second        // for the check
	readyFor    = 500 * time.Millisecond // that its result is good for
)

// ReadyHandler answers readiness probes: 200 when a linearizable read was answered within 2 s, 503 otherwise
// and from Close on, with a body such as {"ready":false,"reason":"etcd unavailable"} that names neither addresses nor users.
//
// However many probes come, there is one check at a time, and its result is good for half a second.
func (c *Client) ReadyHandler() http.Handler {
	return &readiness{check: c.ask, gone: c.isClosed}
}

// readiness shares checks among requests.
type readiness struct {
	check func(ctx context.Context) error
	gone  func() bool // the client is closed: no earlier result counts

	mu      sync.Mutex
	last    error
	at      time.Time
	running chan struct{} // closed when the check under way has ended; nil without one
}

// readyBody is what a probe is answered with.
type readyBody struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitzero"`
}

// ServeHTTP answers one probe.
func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	err := r.result(req.Context())
	body, code := readyBody{Ready: err == nil}, http.StatusOK
	if err != nil {
		body.Reason, code = publicReason(err), http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // who asked has gone
}

// result returns the last result while it is good, or that of a check.
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

// run makes a check on behalf of all who wait: it goes on when the one whose request it is in has gone, and ends for them
// also when it panics.
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

// publicReason is what a stranger may know of err.
func publicReason(err error) string {
	for _, known := range []error{ErrClosed, ErrUnauthenticated, ErrUnavailable} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "etcd does not answer"
}
