package main

import (
	"context"
	"errors"
	"net/http"
	"os"

	"github.com/etcdkit/etcdkit"
	"github.com/etcdkit/etcdkit/cache"
	"github.com/etcdkit/etcdkit/discovery"
	"github.com/etcdkit/etcdkit/kv"
)

// refusal is an error as the client sees it.
type refusal struct {
	status int
	code   string
	text   string
	header map[string]string
	data   any // nil but for a lost compare-and-swap
}

// Error returns the text.
func (r *refusal) Error() string { return r.text }

// statuses maps the errors of etcdkit to statuses. The first that matches applies. Without a text
// the error's own is sent, which names the key and the limit, but no address of etcd and no value.
//
//nolint:gochecknoglobals // a table
var statuses = []struct {
	target error
	status int
	code   string
	text   string
}{
	// First, whatever else such an error matches: the write may have been applied.
	{etcdkit.ErrUnknownOutcome, 504, "unknown_outcome", "the write may have been applied, or not: read before you repeat it"},

	{kv.ErrNotFound, 404, "not_found", "there is no such key"},
	{kv.ErrExists, 412, "exists", "the key exists"},
	{discovery.ErrTaken, 409, "taken", ""},
	{etcdkit.ErrTooLarge, 413, "too_large", ""},
	{etcdkit.ErrCompacted, 410, "gone", "etcd has compacted the revision of this listing: begin again without a cursor"},
	{etcdkit.ErrPermission, 403, "forbidden", "the gateway's user in etcd may not do that"},

	{errTooSlow, 503, "too_slow", "the request took too long; nothing was changed"},
	{etcdkit.ErrUnauthenticated, 503, "unavailable", "etcd does not accept the gateway's credentials"},
	{etcdkit.ErrUnavailable, 503, "unavailable", "etcd does not answer; nothing was changed"},
	{cache.ErrStale, 503, "unavailable", "the cache is too old, and etcd does not answer"},
	{etcdkit.ErrClosed, 503, "closing", "the gateway is stopping"},
	{context.Canceled, 503, "closing", "the request was cancelled"},

	{etcdkit.ErrInvalid, 400, "invalid", ""},
}

// refusalOf returns the answer to an error. No other function chooses a status for one of etcdkit.
func (s *service) refusalOf(ctx context.Context, err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &refusal{status: 413, code: "too_large", text: "the body is too large"}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &refusal{
			status: 408, code: "slow_body", text: "the body did not arrive in time",
			header: map[string]string{"Connection": "close"},
		}
	}
	if r := conflict(err); r != nil {
		return r
	}
	for _, c := range statuses {
		if !errors.Is(err, c.target) {
			continue
		}
		r := &refusal{status: c.status, code: c.code, text: c.text}
		if r.text == "" {
			r.text = err.Error()
		}
		if r.status == http.StatusServiceUnavailable {
			r.header = map[string]string{"Retry-After": "1"}
		}
		if r.status >= http.StatusInternalServerError {
			s.log.WarnContext(ctx, "request failed", "status", r.status, "error", err)
		}
		return r
	}
	s.log.ErrorContext(ctx, "request failed", "status", http.StatusInternalServerError, "error", err)
	return &refusal{
		status: http.StatusInternalServerError, code: "internal", text: "internal error: see the gateway's log",
	}
}

// conflict returns the answer to a write whose condition did not hold, and nil for other errors. A
// revision in a header is a precondition of HTTP; a value in the body is that of a
// compare-and-swap.
func conflict(err error) *refusal {
	c, ok := errors.AsType[*kv.ConflictError](err)
	switch {
	case !ok || errors.Is(err, etcdkit.ErrUnknownOutcome):
		return nil
	case c.Want != 0:
		return &refusal{status: http.StatusPreconditionFailed, code: "changed", text: c.Error()}
	}
	return &refusal{status: http.StatusConflict, code: "conflict", text: c.Error(), data: false}
}
